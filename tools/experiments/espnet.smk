# ESPnet's stages of a comparison: tokens and statistics, training, decoding. The including Snakefile
# sets ESPNET (the parent of the data folders), STATS_STAGE and DECODE_STAGE, and makes a config for
# each training.
AUDIO_AND_TEXT = " ".join(
    f"--{kind}_data_path_and_name_and_type {{input.{kind}_{key}:q}},{name}"
    for kind in ("train", "valid")
    for key, name in (("wav", "speech,sound"), ("text", "text,text"))
)


def data_files():
    """Return the named inputs of ESPnet's training, in its own words."""
    return {
        f"{kind}_{key}": f"{ESPNET}/{split}/{file}"
        for kind, split in (("train", "train"), ("valid", "dev"))
        for key, file in (("wav", "wav.scp"), ("text", "text"))
    }


# The same for all encoders. One job collects the statistics, so aggregate_stats_dirs is not needed.
if stage(STATS_STAGE, "stats/train/feats_stats.npz"):

    rule tokens:
        input: f"{ESPNET}/train/text"
        output: "tokens.txt"
        log: "log/tokens.log"
        shell:
            "python -m espnet2.bin.tokenize_text --token_type char --input {input:q}"
            " --output {output} --field 2- --write_vocabulary true --add_symbol '<blank>:0'"
            " --add_symbol '<unk>:1' --add_symbol '<sos/eos>:-1' > {log} 2>&1"

    rule stats:
        input:
            "tokens.txt",
            **data_files(),
            train_shape=f"{ESPNET}/train/utt2dur",
            valid_shape=f"{ESPNET}/dev/utt2dur",
            config=f"conf/epochs/{SYSTEMS[-1]}.yaml",
        output:
            "stats/train/feats_stats.npz",
            expand("stats/{split}/speech_shape", split=["train", "valid"]),
        log: "log/stats.log"
        benchmark: "benchmarks/stats.tsv"
        shell:
            "python -m espnet2.bin.asr_train --config {input.config:q} --normalize none"
            " --collect_stats true --output_dir stats " + AUDIO_AND_TEXT + ""
            " --train_shape_file {input.train_shape:q} --valid_shape_file {input.valid_shape:q}"
            " > {log} 2>&1"


if CONDITIONS:

    rule train:
        input:
            **data_files(),
            config="conf/{condition}/{system}.yaml",
            stats="stats/train/feats_stats.npz",
            tokens="tokens.txt",
            train_shape="stats/train/speech_shape",
            valid_shape="stats/valid/speech_shape",
        output: "costs/train/{condition}/{system}.json"
        wildcard_constraints: condition="|".join(CONDITIONS)
        params:
            folder="models/{condition}/{system}",
            model=config["inference_model"],
        shell:
            "{RESUMABLE} train/{wildcards.condition}/{wildcards.system} --folder {params.folder}"
            " --outputs {params.folder}/{params.model:q}"
            " --inputs {input:q} -- python -m espnet2.bin.asr_train --config {input.config:q}"
            " --output_dir {params.folder} --resume true --ngpu 0 " + AUDIO_AND_TEXT + ""
            " --train_shape_file {input.train_shape:q} --valid_shape_file {input.valid_shape:q}"


if stage(DECODE_STAGE, *of_all_runs(DECODED)):

    rule decode:
        input:
            "costs/train/{condition}/{system}.json",
            wav=f"{ESPNET}/test/wav.scp",
        output: "decode/{condition}/{system}/1best_recog/text"
        params:
            model="models/{condition}/{system}",
            file=config["inference_model"],
            options=config["inference_args"],
        log: "log/decode/{condition}/{system}.log"
        benchmark: "benchmarks/decode/{condition}/{system}.tsv"
        shell:
            "python -m espnet2.bin.asr_inference --asr_train_config {params.model}/config.yaml"
            " --asr_model_file {params.model}/{params.file:q} --ngpu 0 --num_workers 0"
            " --data_path_and_name_and_type {input.wav:q},speech,sound --key_file {input.wav:q}"
            " --output_dir decode/{wildcards.condition}/{wildcards.system} {params.options}"
            " > {log} 2>&1"
