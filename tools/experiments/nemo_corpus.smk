# A public corpus with NeMo: data, tokens, configurations, trainings, averages, decoding, results. The
# including Snakefile sets CORPUS, its name in tools/nemo_recipes/table.yaml, and UNIT, the kind of
# tokens. With --manifests, the data are manifests of NeMo's own scripts.
from nas_encoder.errors import ConfigError
from tools.experiments.searched import given
from tools.nemo_recipes.configs import loss_name
from tools.nemo_recipes.genotypes import choices_with

MADE_UNITS = ("syllable", "initial_final")
MANIFESTS = config.get("manifests", "")
PREPARE = f"--units {UNIT}" if UNIT in MADE_UNITS else ""
VARIANT = f"_{UNIT}" if UNIT in MADE_UNITS else ""
if "phones" in config:
    PREPARE, VARIANT = f"--phones {config['phones']}", f"_{config['phones']}_phones"

GENOTYPES = given(config["genotype"], RECIPE)
CHOICES = choices_with(
    CORPUS,
    config["encoders"].split(),
    {name: source.sized for name, source in GENOTYPES.items()},
    config["loss"],
)
ENCODERS = list(CHOICES)
KIND = "char" if UNIT == "char" else "bpe" # what NeMo's classes know
if any(choice.loss != "ctc" for choice in CHOICES.values()):
    loss_name(config["rnnt_loss"], config["ngpu"]) # refused before anything is made

if MANIFESTS and config["tiny"] == "true":
    raise ConfigError("--manifests", ["--tiny is on a synthetic corpus; give one of them"])
if MANIFESTS and UNIT in MADE_UNITS:
    raise ConfigError("--manifests", [f"hold hanzi; {UNIT} are made of --corpus_dir's texts"])
if MANIFESTS and config["corpus_dir"]:
    raise ConfigError("--manifests", ["and --corpus_dir: give one of them"])
if MANIFESTS:
    TESTS = config["tests"].split()
    TINY = SYNTHETIC = False
    DATA = f"{DATA}/{CORPUS}_manifests"
    SOURCE = str(Path(RECIPE, MANIFESTS))
    _parts = {name: config.get(name, name) for name in ("train", "dev")} | {t: t for t in TESTS}
    _read = sorted({part for parts in _parts.values() for part in parts.split(",")})

    def manifest(split):
        """Return the manifest of a split or a test subset."""
        return f"{DATA}/nemo/{split}.json"

    PREPARED = f"{DATA}/prepared.json"

    if stage(1, PREPARED):

        rule manifests:
            input: [f"{SOURCE}/{part.replace('-', '_')}.json" for part in _read],
            output:
                PREPARED,
                [manifest(split) for split in _parts],
            params:
                corpus=CORPUS.partition("_")[0],
                source=SOURCE,
                folder=DATA,
                parts=[f"{split}={parts}" for split, parts in _parts.items()],
                options=config["data_args"],
            log: "log/manifests.log"
            shell:
                "python -m tools.nemo_recipes.manifests {params.parts:q} --corpus {params.corpus}"
                " --manifests {params.source:q} --output {params.folder:q} {params.options}"
                " > {log} 2>&1"

else:

    include: "corpus_data.smk"

    def manifest(split):
        """Return the manifest of a split or a test subset."""
        data, name = place(split)
        return f"{data}/nemo/{name}.json"

    PREPARED = f"{DATA}/{TESTS[0]}/prepared.json"


VOCABULARY = "tokens/vocab.txt"
TOKENS = [VOCABULARY, *(["tokens/tokenizer.model"] if KIND == "bpe" else [])]

if stage(2, *TOKENS):

    rule tokens:
        input: manifest("train")
        output: *TOKENS,
        params:
            kind=UNIT,
            size=f"--size {config['vocab_size']} --model_type {config['spe_type']}"
            if UNIT == "bpe"
            else "",
        log: "log/tokens.log"
        shell:
            "python -m tools.nemo_recipes.tokens --manifest {input:q} --kind {params.kind}"
            " {params.size} --output tokens > {log} 2>&1"


SIZE = ["--parameters", config["parameters"]] if config["parameters"] else []


def genotype_of(encoder):
    """Return the genotype of an encoder of --genotype."""
    return [GENOTYPES[encoder].genotype] if encoder in GENOTYPES else []


if stage(3, expand("conf/{encoder}.yaml", encoder=ENCODERS)):

    rule training_config:
        input:
            TOKENS,
            train=manifest("train"),
            valid=manifest("dev"),
            shipped=lambda w: f"{ROOT}/{CHOICES[w.encoder].file}",
            genotype=lambda w: [one for one in genotype_of(w.encoder) if Path(one).is_file()],
        output: "conf/{encoder}.yaml"
        wildcard_constraints: encoder="|".join(ENCODERS)
        params:
            corpus=CORPUS,
            name=lambda w: CHOICES[w.encoder].name,
            kind=KIND,
            genotype=lambda w: [
                word
                for one in genotype_of(w.encoder)
                for word in ("--genotype", one, *SIZE)
            ],
            options=" ".join(
                [
                    f"--rnnt_loss {config['rnnt_loss']} --ngpu {config['ngpu']}",
                    f"--seed {config['seed']}",
                    *(["--speed"] if config["speed_perturb"] == "true" else []),
                    *(["--tiny"] if TINY else []),
                ]
            ),
        log: "log/conf/{encoder}.log"
        shell:
            "python -m tools.nemo_recipes.training --corpus {params.corpus}"
            " --name {params.name} --train {input.train:q} --valid {input.valid:q}"
            " --tokens tokens --kind {params.kind} {params.options} {params.genotype:q}"
            " --output {output}"
            " > {log} 2>&1"


if stage(4, expand("costs/train/{encoder}.json", encoder=ENCODERS)):

    rule train:
        input:
            "conf/{encoder}.yaml",
            TOKENS,
            manifest("train"),
            manifest("dev"),
        output: "costs/train/{encoder}.json"
        params:
            folder="models/{encoder}",
            configs=f"{config['expdir']}/conf", # Hydra resolves relative paths against the script
            options=config["train_args"],
        shell:
            "{RESUMABLE} train/{wildcards.encoder} --folder {params.folder}"
            " --outputs {params.folder}/checkpoints/{wildcards.encoder}.nemo --inputs {input:q} --"
            " python -m tools.nemo_recipes.train --config-path {params.configs:q}"
            " --config-name {wildcards.encoder} exp_manager.explicit_log_dir={params.folder}"
            " exp_manager.name={wildcards.encoder} {params.options}"


AVERAGED = "averaged/{encoder}.nemo"

if stage(5, *expand(AVERAGED, encoder=ENCODERS)):

    rule average:
        input: "costs/train/{encoder}.json"
        output: AVERAGED
        wildcard_constraints: encoder="|".join(ENCODERS)
        params: model="models/{encoder}/checkpoints/{encoder}.nemo"
        log: "log/average/{encoder}.log"
        shell:
            "python -m tools.nemo_recipes.average --model {params.model} --output {output}"
            " > {log} 2>&1"


SPLITS = ["dev", *TESTS]
NAMED = [f"{split}={manifest(split)}" for split in SPLITS]

DECODED = [
    f"decode/{name}/{head}/{split}/{file}"
    for name, choice in CHOICES.items()
    for head in choice.heads
    for split in SPLITS
    for file in ("text", "nemo.json")
]

if stage(6, *DECODED):

    rule decode:
        input:
            AVERAGED,
            tests=[manifest(split) for split in SPLITS],
        output:
            expand("decode/{{encoder}}/{{head}}/{split}/{file}", split=SPLITS,
                   file=["text", "nemo.json"]),
        wildcard_constraints:
            encoder="|".join(ENCODERS),
            head="ctc|rnnt",
        params:
            tests=NAMED,
            folder="decode/{encoder}/{head}",
            way=config["decoding"],
            ngpu=config["ngpu"],
        log: "log/decode/{encoder}/{head}.log"
        benchmark: "benchmarks/decode/{encoder}/{head}.tsv"
        shell:
            "python -m tools.nemo_recipes.transcribe {params.tests:q} --model {input[0]}"
            " --head {wildcards.head} --decoding {params.way} --ngpu {params.ngpu}"
            " --output {params.folder} > {log} 2>&1"


if stage(7, "results/RESULTS.md", "results/results.json"):

    rule results:
        input:
            DECODED,
            expand("conf/{encoder}.yaml", encoder=ENCODERS),
            [manifest(split) for split in SPLITS],
            prepared=PREPARED,
        output:
            "results/RESULTS.md",
            "results/results.json",
        params:
            corpus=CORPUS,
            encoders=[
                f"{name}={CHOICES[name].name}" if name in GENOTYPES else name for name in ENCODERS
            ],
            tests=NAMED,
            kind=UNIT,
            decoding=config["decoding"],
            command=config["command"],
            synthetic="--synthetic" if SYNTHETIC else "",
        log: "log/results.log"
        shell:
            "python -m tools.nemo_recipes.results {params.tests:q} --corpus {params.corpus}"
            " --encoders {params.encoders} --kind {params.kind} --decoding {params.decoding}"
            " --prepared {input.prepared:q} {params.synthetic} --command {params.command:q}"
            " --output results > {log} 2>&1"
