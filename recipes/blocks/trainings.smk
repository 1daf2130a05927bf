# Included by the recipes that train a list of encoders alike: corpora, data, trainings with each rate,
# the choice of the rate, decoding (stages 1, 2, 5 and 6). PLAN, a recipes.blocks.local.plan.Plan, says
# what is done.

from nas_encoder.errors import ConfigError


# How many processes a tool may start changes nothing that it makes, so it is part of no command.
shell.prefix(f"set -euo pipefail; export JOBS={ALL_CORES}; exec ")

SCRIPTS = "recipes.blocks.local"
LIST, TRAIN = str(PLAN.conf("encoders")), str(PLAN.conf("train"))
MODELS = "models/{corpus}/{condition}/{encoder}/{rate}/{seed}"


wildcard_constraints:
    corpus="|".join(PLAN.corpora),
    folder="|".join(PLAN.folders.values()),
    strategy="(?!oneshot/)[a-z0-9_]+",
    condition="time|epochs",
    encoder="[a-z0-9_-]+",
    rate="[0-9.e-]+",
    round="[0-9]+",
    seed="[0-9]+",


def data_of(corpus, split, file=""):
    """Return the ESPnet folder of a split, or a file in it."""
    return f"{DATA}/{PLAN.folders[corpus]}/espnet/{split}" + (f"/{file}" if file else "")


# Without stage 5 there is no rule that chooses rates: they were chosen before.
TUNES = config["stage"] <= 5
if not TUNES and (untuned := PLAN.untuned(Path())):
    unknown = f"no rate is chosen yet for {', '.join(untuned[:3])}"
    more = f" and {len(untuned) - 3} more" if len(untuned) > 3 else ""
    raise ConfigError("--stage", [f"{unknown}{more}; begin at --stage 5"])


def choice(corpus, encoder, number):
    """Return what a round of tuning chose, as soon as it is known."""
    found = checkpoints.choose.get(corpus=corpus, encoder=encoder, round=number)
    return Path(found.output[0])


def chosen(wildcards, corpus, encoder):
    """Return the folder name of the rate that was chosen at equal time."""
    if not TUNES:
        return PLAN.rate_in(PLAN.last_choice(Path(), corpus, encoder))
    for number in range(PLAN.extend + 1):
        found = choice(corpus, encoder, number)
        if PLAN.is_final(found):
            break
    return PLAN.rate_in(found)


def tried(wildcards):
    """Return the trainings of which a round chooses."""
    number = int(wildcards.round)
    before = choice(wildcards.corpus, wildcards.encoder, number - 1) if number else None
    own = dict(wildcards) | {"condition": "time", "seed": PLAN.seeds[0]}
    return [(MODELS + "/result.json").format(**own, rate=rate) for rate in PLAN.tried(before)]


def final(corpus, condition, encoder, pattern):
    """Return an input function: files of a finished encoder, of all seeds at its rate."""

    def files(wildcards):
        rate = chosen(wildcards, corpus, encoder)
        return [
            pattern.format(corpus=corpus, condition=condition, encoder=encoder, rate=rate, seed=s)
            for s in PLAN.seeds
        ]

    return files


def all_final(pattern):
    """Return the input functions of all encoders, and the files of the random points."""
    tuned = [final(*run, pattern) for run in PLAN.tuned_runs()]
    return tuned + [pattern.format(**run) for run in PLAN.untuned_runs()]


if stage(1, [f"{DOWNLOADS}/{folder}/corpus.json" for folder in PLAN.folders.values()]):

    rule corpus:
        output: update(DOWNLOADS + "/{folder}/corpus.json"), # the tools keep an existing corpus
        params:
            command=lambda wildcards: PLAN.corpus_command(wildcards.folder, DOWNLOADS),
        threads: ALL_CORES
        log: "log/corpus/{folder}.log"
        shell: "{params.command} > {log:q} 2>&1"


if stage(2, [f"{DATA}/{folder}/prepared.json" for folder in PLAN.folders.values()]):

    rule data:
        input: DOWNLOADS + "/{folder}/corpus.json"
        output:
            DATA + "/{folder}/prepared.json",
            expand("{data}/{{folder}}/espnet/{split}/{file}", data=DATA,
                   split=["train", "dev", "test"], file=["text", "wav.scp"]),
        params:
            command=lambda wildcards: PLAN.data_command(wildcards.folder, DOWNLOADS, DATA),
        log: "log/data/{folder}.log"
        shell: "{params.command} > {log:q} 2>&1"


if stage(5, all_final(MODELS + "/result.json")):

    rule train: # it resumes from its own checkpoint, which is not an output
        input:
            config=TRAIN,
            spec="encoders/{corpus}/{encoder}.yaml",
            text=lambda w: data_of(w.corpus, "train", "text"),
        output: MODELS + "/result.json", MODELS + "/model.pt", MODELS + "/features.json"
        params:
            folder=MODELS,
            train=lambda w: data_of(w.corpus, "train"),
            valid=lambda w: data_of(w.corpus, "dev"),
            tokens=lambda w: PLAN.corpora[w.corpus]["tokens"],
            limit=lambda w: f"--{PLAN.limits[w.condition][0]} {PLAN.limits[w.condition][1]}",
        log: "log/train/{corpus}/{condition}/{encoder}/{rate}/{seed}.log"
        benchmark: "benchmarks/train/{corpus}/{condition}/{encoder}/{rate}/{seed}.tsv"
        shell:
            "python -m {SCRIPTS}.train --config {input.config:q} --spec {input.spec}"
            " --train {params.train:q} --valid {params.valid:q} --tokens {params.tokens}"
            " --rate {wildcards.rate} --seed {wildcards.seed} {params.limit}"
            " --output {params.folder} > {log} 2>&1"

    checkpoint choose:
        input: tried
        output: "chosen/{corpus}/{encoder}/{round}.json"
        params: further=lambda w: "--further" if int(w.round) < PLAN.extend else ""
        log: "log/choose/{corpus}/{encoder}/{round}.log"
        shell: "python -m {SCRIPTS}.choose {input} {params.further} --output {output} > {log} 2>&1"


if stage(6, all_final("decode/{corpus}/{condition}/{encoder}/{rate}/{seed}/text")):

    rule decode:
        input:
            model=MODELS + "/model.pt",
            features=MODELS + "/features.json",
            text=lambda w: data_of(w.corpus, "test", "text"),
        output: "decode/{corpus}/{condition}/{encoder}/{rate}/{seed}/text"
        params:
            folder=MODELS,
            test=lambda w: data_of(w.corpus, "test"),
        log: "log/decode/{corpus}/{condition}/{encoder}/{rate}/{seed}.log"
        shell:
            "python -m {SCRIPTS}.decode --model {params.folder} --test {params.test:q}"
            " --output {output} > {log} 2>&1"
