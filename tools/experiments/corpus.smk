# A public corpus with ESPnet's programs and no checkout of it: data, tokens, searches, statistics,
# language models, trainings, decoding, results. The including Snakefile sets CORPUS, as corpus_data.smk
# says.
from tools.espnet_recipes.standalone import averaged, bins_of, choice_for, choices_of, decoding_file


include: "corpus_data.smk"


CONF = ROOT / "recipes" / CORPUS / "espnet" / "conf"
TOKEN_TYPE = config["token_type"]
TOKENS = [f"tokens/{TOKEN_TYPE}.txt", *(["tokens/bpe.model"] if TOKEN_TYPE == "bpe" else [])]


def folder(split):
    """Return the ESPnet folder of a split or a test subset."""
    data, name = place(split)
    return f"{data}/espnet/{name}"


SEARCH_STAGE, SEARCH_TOKENS = 3, TOKENS[-1]
SEARCH_TRAIN, SEARCH_VALID = folder("train"), folder("dev")


include: "search.smk"


CHOICES = choices_of(CORPUS, config["encoders"].split(), list(GENOTYPES)) | {
    name: choice_for(CORPUS, source.sized, config["loss"]) for name, source in GENOTYPES.items()
}
ENCODERS = list(CHOICES)
# The first encoder of each number of features makes the statistics for all.
BINS = {name: bins_of(choice) for name, choice in CHOICES.items()}
FIRST = {bins: name for name, bins in reversed(BINS.items())}
DECODINGS = list(dict.fromkeys(config["decoding"].split()))
# Raises an error where an encoder has no such decoding.
DECODING_FILES = {
    (name, kind): str(CONF / decoding_file(choice, kind))
    for name, choice in CHOICES.items()
    for kind in DECODINGS
}


def data_files():
    """Return the named inputs of ESPnet's training, in its own words."""
    return {
        f"{kind}_{key}": f"{folder(split)}/{file}"
        for kind, split in (("train", "train"), ("valid", "dev"))
        for key, file in (("wav", "wav.scp"), ("text", "text"))
    }


AUDIO_AND_TEXT = " ".join(
    f"--{kind}_data_path_and_name_and_type {{input.{kind}_{key}:q}},{name}"
    for kind in ("train", "valid")
    for key, name in (("wav", "speech,sound"), ("text", "text,text"))
)

if stage(2, *TOKENS):

    if TOKEN_TYPE == "bpe":

        rule tokens:
            input: f"{folder('train')}/text"
            output: *TOKENS,
            params: size=config["nbpe"],
            log: "log/tokens.log"
            shell:
                "python -m tools.espnet_recipes.bpe --text {input:q} --size {params.size}"
                " --tokens {output[0]} --model {output[1]} > {log} 2>&1"

    else:

        rule tokens:
            input: f"{folder('train')}/text"
            output: TOKENS,
            params: kind=TOKEN_TYPE,
            log: "log/tokens.log"
            shell:
                "python -m espnet2.bin.tokenize_text --token_type {params.kind} --input {input:q}"
                " --output {output} --field 2- --write_vocabulary true --add_symbol '<blank>:0'"
                " --add_symbol '<unk>:1' --add_symbol '<sos/eos>:-1' > {log} 2>&1"


TOKEN_OPTIONS = f"--tokens {TOKENS[0]} --token_type {TOKEN_TYPE}" + (
    " --bpemodel tokens/bpe.model" if TOKEN_TYPE == "bpe" else ""
)


rule training_config:
    input:
        TOKENS,
        table=f"{ROOT}/tools/espnet_recipes/table.yaml",
        genotype=lambda w: [
            source.genotype
            for name, source in GENOTYPES.items()
            if name == w.encoder and "/" in source.genotype
        ],
    output: "conf/{encoder}.yaml"
    wildcard_constraints: encoder="|".join(ENCODERS)
    params:
        corpus=CORPUS,
        name=lambda w: CHOICES[w.encoder].name,
        genotype=lambda w: (
            ["--genotype", GENOTYPES[w.encoder].genotype] if w.encoder in GENOTYPES else []
        ),
        stats=lambda w: f"stats/{BINS[w.encoder]}/train/feats_stats.npz",
        seed=config["seed"],
        size=f"--parameters {config['parameters']}" if config["parameters"] else "",
        options=("--speed " if config["speed_perturb"] == "true" else "")
        + "--streaming " * ("streaming" in DECODINGS)
        + "--tiny" * TINY,
    log: "log/conf/{encoder}.log"
    shell:
        "python -m tools.espnet_recipes.standalone --corpus {params.corpus} --name {params.name}"
        " {params.genotype:q} {params.size} {TOKEN_OPTIONS} --stats {params.stats}"
        " --seed {params.seed} {params.options} --output {output} > {log} 2>&1"


SHAPES = {
    f"{split}_{kind}": f"stats/{{bins}}/{split}/{file}"
    for split in ("train", "valid")
    for kind, file in (("frames", "speech_shape"), ("targets", f"text_shape.{TOKEN_TYPE}"))
}


def shapes_of(wildcards):
    """Return the shapes of an encoder's features and targets."""
    return {key: path.format(bins=BINS[wildcards.encoder]) for key, path in SHAPES.items()}


if stage(4, *(path.format(bins=bins) for bins in FIRST for path in SHAPES.values())):

    # As asr.sh's stage 4 chooses. The shapes are of these utterances, and so are the trainings.
    rule lengths:
        input:
            lambda w: f"{folder(w.split)}/utt2dur",
            lambda w: f"{folder(w.split)}/text",
        output: "lengths/{split}"
        wildcard_constraints: split="train|dev"
        params:
            folder=lambda w: folder(w.split),
            least=config["min_wav_duration"],
            most=config["max_wav_duration"],
        log: "log/lengths/{split}.log"
        shell:
            "python -m tools.espnet_recipes.lengths --folder {params.folder:q}"
            " --least {params.least} --most {params.most} --output {output} > {log} 2>&1"

    rule stats:
        input:
            TOKENS,
            **data_files(),
            train_shape="lengths/train",
            valid_shape="lengths/dev",
            config=lambda w: f"conf/{FIRST[int(w.bins)]}.yaml",
        output:
            "stats/{bins}/train/feats_stats.npz",
            expand("stats/{{bins}}/{split}/{file}", split=["train", "valid"],
                   file=["speech_shape", "text_shape"]),
        params: folder="stats/{bins}",
        log: "log/stats/{bins}.log"
        benchmark: "benchmarks/stats/{bins}.tsv"
        shell:
            "python -m espnet2.bin.asr_train --config {input.config:q} --normalize none"
            " --collect_stats true --output_dir {params.folder} " + AUDIO_AND_TEXT + ""
            " --train_shape_file {input.train_shape:q} --valid_shape_file {input.valid_shape:q}"
            " > {log} 2>&1"

    # As asr.sh does: a batch is measured in the numbers of its arrays, targets as one-hot rows.
    rule text_shape:
        input:
            TOKENS,
            shape="stats/{bins}/{split}/text_shape",
        output: f"stats/{{bins}}/{{split}}/text_shape.{TOKEN_TYPE}"
        wildcard_constraints: split="train|valid"
        shell:
            """awk -v N="$(wc -l < {input[0]})" '{{ print $0 "," N }}' {input.shape} > {output}"""


include: "language_model.smk"


SPLITS = ["dev", *TESTS]
# Utterances that ESPnet would decode wrongly in chunks are refused before anything is trained.
CHUNKS = {
    f"chunks/{Path(file).stem}.json": file
    for (_, kind), file in DECODING_FILES.items()
    if kind == "streaming"
}


rule chunks:
    input:
        [f"{folder(split)}/utt2dur" for split in SPLITS],
        config=lambda w: CHUNKS[f"chunks/{w.name}.json"],
    output: "chunks/{name}.json"
    params:
        folders=[folder(split) for split in SPLITS],
        options=config["inference_args"],
    priority: 1
    log: "log/chunks/{name}.log"
    shell:
        "python -m tools.espnet_recipes.chunks {params.folders:q} --config {input.config:q}"
        " --options={params.options:q} --output {output} > {log} 2>&1"


if stage(6, *CHUNKS, *expand("costs/train/{encoder}.json", encoder=ENCODERS)):

    rule train:
        input:
            TOKENS,
            unpack(shapes_of),
            **data_files(),
            stats=lambda w: f"stats/{BINS[w.encoder]}/train/feats_stats.npz",
            config="conf/{encoder}.yaml",
        output: "costs/train/{encoder}.json"
        params:
            folder="models/{encoder}",
            model=lambda w: averaged(CHOICES[w.encoder]),
            ngpu=config["ngpu"],
            options=config["asr_args"],
        shell:
            "{RESUMABLE} train/{wildcards.encoder} --folder {params.folder}"
            " --outputs {params.folder}/{params.model} --inputs {input:q} --"
            " python -m espnet2.bin.asr_train --config {input.config:q} --output_dir {params.folder}"
            " --resume true --ngpu {params.ngpu} " + AUDIO_AND_TEXT + ""
            " --train_shape_file {input.train_frames} --train_shape_file {input.train_targets}"
            " --valid_shape_file {input.valid_frames} --valid_shape_file {input.valid_targets}"
            " {params.options}"


DECODED = "decode/{encoder}/{decoding}/{split}/1best_recog/text"
ALL_DECODED = expand(DECODED, encoder=ENCODERS, decoding=DECODINGS, split=SPLITS)

if stage(7, *ALL_DECODED):

    rule decode:
        input:
            "costs/train/{encoder}.json",
            lambda w: LANGUAGE_MODELS[w.decoding].files if w.decoding in LANGUAGE_MODELS else [],
            lambda w: [
                name
                for name, file in CHUNKS.items()
                if w.decoding == "streaming" and file == DECODING_FILES[w.encoder, w.decoding]
            ],
            wav=lambda w: f"{folder(w.split)}/wav.scp",
            config=lambda w: DECODING_FILES[w.encoder, w.decoding],
        output: DECODED
        wildcard_constraints:
            encoder="|".join(ENCODERS),
            decoding="|".join(DECODINGS),
            split="|".join(SPLITS),
        params:
            model="models/{encoder}",
            file=lambda w: averaged(CHOICES[w.encoder]),
            lm=lambda w: LANGUAGE_MODELS[w.decoding].options if w.decoding in LANGUAGE_MODELS else "",
            folder="decode/{encoder}/{decoding}/{split}",
            ngpu=config["ngpu"],
            program=lambda w: "_streaming" * (w.decoding == "streaming"),
            options=config["inference_args"],
        log: "log/decode/{encoder}/{decoding}/{split}.log"
        benchmark: "benchmarks/decode/{encoder}/{decoding}/{split}.tsv"
        shell:
            "python -m espnet2.bin.asr_inference{params.program} --config {input.config:q}"
            " --asr_train_config {params.model}/config.yaml"
            " --asr_model_file {params.model}/{params.file} --ngpu {params.ngpu} --num_workers 1"
            " {params.lm} --data_path_and_name_and_type {input.wav:q},speech,sound"
            " --key_file {input.wav:q} --output_dir {params.folder} {params.options} > {log} 2>&1"


if stage(8, "results/RESULTS.md", "results/results.json"):

    rule results:
        input:
            ALL_DECODED,
            expand("costs/train/{encoder}.json", encoder=ENCODERS),
            [f"costs/search/{name.removeprefix('searched_')}.json" for name in SEARCHES],
            references=[f"{folder(split)}/text" for split in SPLITS],
            prepared=f"{place(TESTS[0])[0]}/prepared.json",
        output:
            "results/RESULTS.md",
            "results/results.json",
        params:
            corpus=CORPUS,
            encoders=[f"{name}={choice.name}" for name, choice in CHOICES.items()],
            tests=[f"{split}={folder(split)}" for split in SPLITS],
            decodings=DECODINGS,
            seed=config["seed"],
            command=config["command"],
            synthetic="--synthetic" * SYNTHETIC + " --tiny" * TINY,
        log: "log/results.log"
        shell:
            "python -m tools.espnet_recipes.results --corpus {params.corpus}"
            " --encoders {params.encoders} --tests {params.tests:q} --decodings {params.decodings}"
            " --prepared {input.prepared:q} --seed {params.seed} {params.synthetic}"
            " --command {params.command:q} --output results > {log} 2>&1"
