# Stage 1 of the recipes for public corpora: the data of lhotse, ESPnet and NeMo. The including
# Snakefile sets CORPUS, its name in tools/espnet_recipes/table.yaml, and may set VARIANT, what
# distinguishes data of the same corpus with other texts, and PREPARE, options that make them.
# With --tiny or without --corpus_dir, a synthetic corpus in the same layout is made.
import re
from hashlib import sha256

TESTS = config["tests"].split()
TINY = config["tiny"] == "true"
SYNTHETIC = TINY or not config["corpus_dir"]
LAYOUT = CORPUS.partition("_")[0]
# LibriSpeech's data are prepared once for each test subset; train and dev are those of the first.
SUBSETS = "--train {train} --dev {dev}".format(**config) if "train" in config else ""
if SYNTHETIC:
    _name = LAYOUT + "_synthetic_{n_train}_{n_dev}_{n_test}_seed{seed}".format(**config)
    SOURCE = f"{DOWNLOADS}/{_name}"
else:
    SOURCE = str(Path(RECIPE, config["corpus_dir"]).resolve())
    _name = f"{CORPUS}_{sha256(SOURCE.encode()).hexdigest()[:8]}"
# Snakemake knows of each EXPDIR alone: other data must not have the folder of these.
_told = re.sub(r"[^\w.,-]+", "_", f"{config['data_args']} {SUBSETS}".replace("--", "")).strip("_")
DATA = f"{DATA}/{_name}{globals().get('VARIANT', '')}{_told and '_' + _told}"


def place(split):
    """Return the folder of prepared data that holds a split or a test subset, and its name there."""
    return (f"{DATA}/{split}", "test") if split in TESTS else (f"{DATA}/{TESTS[0]}", split)


if stage(1, expand("{data}/{test}/prepared.json", data=DATA, test=TESTS)):
    if SYNTHETIC:

        rule corpus:
            output: update(f"{SOURCE}/corpus.json"), # the tool keeps an existing corpus
            params:
                layout=LAYOUT,
                folder=SOURCE,
                sizes=[config[name] for name in ("n_train", "n_dev", "n_test")],
                speakers=config["speakers"],
                seed=config["seed"],
                other=f"--test-other {config['n_test']}" if "test-other" in TESTS else "",
            log: "log/corpus.log"
            threads: ALL_CORES
            shell:
                "python {ROOT:q}/tools/synth_corpus.py --layout {params.layout}"
                " --output {params.folder:q} --train {params.sizes[0]} --dev {params.sizes[1]}"
                " --test {params.sizes[2]} {params.other} --speakers {params.speakers}"
                " --seed {params.seed} --jobs {threads} > {log:q} 2>&1"

    rule data:
        input: f"{SOURCE}/corpus.json" if SYNTHETIC else [],
        output:
            f"{DATA}/{{test}}/prepared.json",
            expand("{data}/{{test}}/espnet/{split}/{file}", data=DATA,
                   split=["train", "dev", "test"], file=["text", "wav.scp", "utt2dur"]),
            expand("{data}/{{test}}/nemo/{split}.json", data=DATA, split=["train", "dev", "test"]),
        wildcard_constraints: test="|".join(TESTS)
        params:
            corpus=LAYOUT,
            source=SOURCE,
            folder=f"{DATA}/{{test}}",
            subsets=lambda w: f"{SUBSETS} --test {w.test}" if SUBSETS else "",
            options=" ".join([config["data_args"], globals().get("PREPARE", "")])
            + (" --partial" if SYNTHETIC else ""),
        log: "log/data/{test}.log"
        threads: ALL_CORES
        shell:
            "nas-encoder data prepare {params.corpus} {params.source:q} {params.folder:q}"
            " --jobs {threads} {params.subsets} {params.options} > {log} 2>&1"
