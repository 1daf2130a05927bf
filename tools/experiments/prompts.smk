# Stages 1 and 2 of the recipes on recorded prompts: the corpus, and what lhotse, ESPnet and NeMo
# read. Another sampling rate gives another folder of data. Options: debs, sampling_rate (see
# recipes/prompts/recipe.yaml).
CORPUS = f"{DOWNLOADS}/prompts"
DATA = f"{DATA}/prompts_{config['sampling_rate']}"
ESPNET, NEMO = f"{DATA}/espnet", f"{DATA}/nemo"

if stage(1, f"{CORPUS}/corpus.json"):

    rule corpus:
        output: update(f"{CORPUS}/corpus.json"), # the tool keeps an existing corpus
        params:
            folder=CORPUS,
            debs=f"--debs {Path(RECIPE, config['debs'])}" if config["debs"] else "",
        log: "log/corpus.log"
        shell:
            "python -m tools.prompts.fetch --output {params.folder:q} {params.debs} > {log:q} 2>&1"


if stage(2, f"{DATA}/prepared.json"):

    rule data:
        input: f"{CORPUS}/corpus.json"
        output:
            f"{DATA}/prepared.json",
            expand("{folder}/{split}/{file}", folder=ESPNET, split=["train", "dev", "test"],
                   file=["text", "wav.scp", "utt2dur"]),
            expand("{folder}/{split}.json", folder=NEMO, split=["train", "dev", "test"]),
        params:
            corpus=CORPUS,
            data=DATA,
            rate=config["sampling_rate"],
        log: "log/data.log"
        shell:
            "nas-encoder data prepare prompts {params.corpus:q} {params.data:q}"
            " --sampling-rate {params.rate} > {log:q} 2>&1"
