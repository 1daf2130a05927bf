# Stages 1 and 2 of the recipes on synthetic speech: the corpus, and what lhotse, ESPnet and NeMo
# read. PREPARED is the input of other rules; another seed or size gives another corpus.
_name = "synthetic_{n_train}_{n_dev}_{n_test}_seed{seed}".format(**config)
CORPUS = f"{DOWNLOADS}/{_name}"
DATA = f"{DATA}/{_name}"
ESPNET, NEMO = f"{DATA}/espnet", f"{DATA}/nemo"

if stage(1, f"{CORPUS}/corpus.json"):

    rule corpus:
        output: update(f"{CORPUS}/corpus.json"), # the tool keeps an existing corpus
        params:
            folder=CORPUS,
            sizes=[config[name] for name in ("n_train", "n_dev", "n_test")],
            speakers=config["speakers"],
            seed=config["seed"],
        log: "log/corpus.log"
        threads: ALL_CORES
        shell:
            "python {ROOT:q}/tools/synth_corpus.py --layout librispeech --output {params.folder:q}"
            " --train {params.sizes[0]} --dev {params.sizes[1]} --test {params.sizes[2]}"
            " --speakers {params.speakers} --seed {params.seed} --jobs {threads} > {log:q} 2>&1"


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
        log: "log/data.log"
        shell:
            "nas-encoder data prepare librispeech {params.corpus:q}/LibriSpeech {params.data:q}"
            " --train train-clean-100 --dev dev-clean --test test-clean > {log:q} 2>&1"
