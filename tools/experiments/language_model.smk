# Language models of the decodings `lm` and `ngram`: a Transformer of ESPnet's, and KenLM's n-gram.
# Included by corpus.smk.
from tools.espnet_recipes.language_model import MODEL, LanguageModel, kenlm_tool

# Decoding -> what asr_inference is given.
LANGUAGE_MODELS = {
    "lm": LanguageModel(
        ("costs/lm.json",), f"--lm_train_config lm/model/config.yaml --lm_file lm/model/{MODEL}"
    ),
    "ngram": LanguageModel(("lm/ngram.arpa",), "--ngram_file lm/ngram.arpa"),
}
LM_TEXT = str(Path(RECIPE, config["lm_text"])) if config.get("lm_text") else ""
LM_TEXTS = {"train": "lm/text", "valid": f"{folder('dev')}/text"}
LM_FILES = " ".join(
    f"--{split}_data_path_and_name_and_type {{input.{split}:q}},text,text" for split in LM_TEXTS
)

if used := [name for name in LANGUAGE_MODELS if name in DECODINGS]:

    rule lm_config:
        input:
            TOKENS,
            LM_TEXT or [],
            train=f"{folder('train')}/text",
        output:
            config="lm/train.yaml",
            text="lm/text",
        params:
            corpus=CORPUS,
            more=["--more", LM_TEXT, *(["--partial"] if SYNTHETIC else [])] if LM_TEXT else [],
            seed=config["seed"],
            tiny="--tiny" * TINY,
        log: "log/lm_config.log"
        shell:
            "python -m tools.espnet_recipes.language_model --corpus {params.corpus} {TOKEN_OPTIONS}"
            " --seed {params.seed} {params.tiny} --train {input.train:q} {params.more:q}"
            " --config {output.config} --text {output.text} > {log} 2>&1"

    if stage(5, *(file for name in used for file in LANGUAGE_MODELS[name].files)):

        # The keys of a file are those of its shapes, which nothing has measured yet.
        rule lm_stats:
            input:
                TOKENS,
                config="lm/train.yaml",
                **LM_TEXTS,
            output: expand("lm/stats/{split}/text_shape", split=LM_TEXTS)
            log: "log/lm_stats.log"
            shell:
                "python -m espnet2.bin.lm_train --config {input.config} --collect_stats true"
                " --output_dir lm/stats " + LM_FILES + " --train_shape_file {input.train:q}"
                " --valid_shape_file {input.valid:q} > {log} 2>&1"

        rule lm_shape:
            input:
                TOKENS,
                shape="lm/stats/{split}/text_shape",
            output: f"lm/stats/{{split}}/text_shape.{TOKEN_TYPE}"
            wildcard_constraints: split="|".join(LM_TEXTS)
            shell:
                """awk -v N="$(wc -l < {input[0]})" '{{ print $0 "," N }}' {input.shape} > {output}"""

        rule lm:
            input:
                TOKENS,
                config="lm/train.yaml",
                **LM_TEXTS,
                **{f"{split}_shape": f"lm/stats/{split}/text_shape.{TOKEN_TYPE}" for split in LM_TEXTS},
            output: "costs/lm.json"
            params:
                model=f"lm/model/{MODEL}",
                ngpu=config["ngpu"],
                options=config["lm_args"],
            shell:
                "{RESUMABLE} lm --folder lm/model --outputs {params.model} --inputs {input:q} --"
                " python -m espnet2.bin.lm_train --config {input.config} --output_dir lm/model"
                " --resume true --ngpu {params.ngpu} " + LM_FILES + ""
                " --train_shape_file {input.train_shape} --valid_shape_file {input.valid_shape}"
                " {params.options}"

        if "ngram" in used:

            rule ngram_text:
                input:
                    TOKENS,
                    text="lm/text",
                output: "lm/tokens.txt"
                params:
                    kind=TOKEN_TYPE,
                    model="--bpemodel tokens/bpe.model" if TOKEN_TYPE == "bpe" else "",
                log: "log/ngram_text.log"
                shell:
                    "python -m espnet2.bin.tokenize_text --token_type {params.kind} {params.model}"
                    " --input {input.text} --output {output} --field 2- > {log} 2>&1"

            rule ngram:
                input: "lm/tokens.txt"
                output: "lm/ngram.arpa"
                params:
                    tool=kenlm_tool(),
                    order=config["ngram_order"],
                log: "log/ngram.log"
                shell:
                    "{params.tool:q} --order {params.order} --discount_fallback --text {input}"
                    " --arpa {output} > {log} 2>&1"
