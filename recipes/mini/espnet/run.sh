#!/usr/bin/env bash
# The demo: synthetic speech -> search -> ESPnet training -> table of results. See --help.
set -euo pipefail

# --- what to run
stage=1
stop_stage=9
nj=2                     # one-thread jobs side by side
seed=1
expdir=exp               # genotypes, models, logs, results
datadir=data             # lhotse, ESPnet and NeMo data
downloads=downloads      # the synthetic corpus
tiny=false               # a few utterances and one epoch: does everything run?

# --- sizes
n_train=1000             # utterances
n_dev=80
n_test=160
speakers="40 4 8"        # train, dev, test; all different
search_config=small      # shipped name or file
search_opts=             # e.g. "--set stages.0.epochs=2"
space=asr_revised        # of the random genotype; that of the search config
parameters=260000        # of each encoder, within 2 %
systems="searched random transformer dfsmn_san"   # the searched one and any others of these
epochs=8                 # of the trainings at equal epochs
inference_model=valid.cer_ctc.best.pth
inference_args="--ctc_weight 1.0 --lm_weight 0 --beam_size 1"
repeats=9                # timed passes for the real-time factor

help() {
    cat <<TEXT
usage: run.sh [--stage N] [--stop_stage N] [--nj N] [--seed N] [--expdir DIR] [--tiny true] ...

A searched encoder against a random genotype of the same space, DFSMN-SAN and a Transformer, at
equal size: trained by ESPnet at equal epochs and at equal time, on synthetic speech.

  1  corpus      tools/synth_corpus.py, laid out as LibriSpeech
  2  data        nas-encoder data prepare: lhotse, ESPnet folders, NeMo manifests
  3  search      nas-encoder search
  4  configs     a random genotype; widths at which all encoders have equal size
  5  statistics  ESPnet's tokens and feature statistics
  6  training    espnet2.bin.asr_train, equal epochs
  7  training    the same, as long as the searched encoder took
  8  decoding    espnet2.bin.asr_inference
  9  results     EXPDIR/results: RESULTS.md, results.json, results.png, results.svg

What is done already is left out, what was stopped goes on; a job whose command or inputs
changed is done again. Jobs of several stages run side by side where none waits for the other.
Logs: EXPDIR/log.

options and their defaults:
  --stage $stage --stop_stage $stop_stage --nj $nj --seed $seed --tiny $tiny
  --expdir $expdir --datadir $datadir --downloads $downloads
  --n_train $n_train --n_dev $n_dev --n_test $n_test --speakers "$speakers"
  --search_config $search_config --search_opts "$search_opts"
  --systems "$systems" --space $space --parameters $parameters --epochs $epochs --repeats $repeats
  --inference_model $inference_model --inference_args "$inference_args"
TEXT
}

# --name value, as in ESPnet's and Kaldi's recipes
given=("$@")
while [ $# -gt 0 ]; do
    case $1 in
        --help | -h)
            help
            exit 0
            ;;
        --*)
            name=${1#--}
            name=${name//-/_}
            case " stage stop_stage nj seed expdir datadir downloads tiny n_train n_dev n_test \
speakers search_config search_opts space parameters epochs inference_model \
inference_args repeats systems " in
                *" $name "*) ;;
                *)
                    echo "run.sh: unknown option $1; --help lists them" >&2
                    exit 2
                    ;;
            esac
            if [ $# -lt 2 ]; then
                echo "run.sh: $1 needs a value" >&2
                exit 2
            fi
            printf -v "$name" '%s' "$2"
            shift 2
            ;;
        *)
            echo "run.sh: unexpected argument '$1'; --help shows how it is used" >&2
            exit 2
            ;;
    esac
done
for name in stage stop_stage nj seed n_train n_dev n_test parameters epochs repeats; do
    if ! [[ ${!name} =~ ^[0-9]+$ ]]; then
        echo "run.sh: --$name: must be a whole number, got '${!name}'" >&2
        exit 2
    fi
done

case "$systems " in
    "searched "?*) others=${systems#searched } ;;
    *)
        echo "run.sh: --systems: must be searched and then at least one other, got '$systems'" >&2
        exit 2
        ;;
esac
for system in $others; do
    if ! [[ $system =~ ^(random|transformer|dfsmn_san)$ ]]; then
        echo "run.sh: --systems: must be random, transformer or dfsmn_san, got '$system'" >&2
        exit 2
    fi
done

if [ "$tiny" = true ]; then
    n_train=40 n_dev=6 n_test=8 speakers="4 2 2"
    search_config=tiny epochs=1 repeats=1
    search_opts="--set trainer.score_utterances=2 --set train_utterances=20"
    for number in 0 1 2; do
        search_opts+=" --set stages.$number.epochs=1 --set stages.$number.warmup_epochs=0"
    done
fi

cd "$(dirname "${BASH_SOURCE[0]}")"
. ./path.sh
local=recipes.mini.espnet.local
for needed in python nas-encoder; do
    if ! command -v $needed >/dev/null; then
        echo "run.sh: $needed is not on the PATH; 'make setup' in $ROOT installs everything" >&2
        exit 1
    fi
done

mkdir -p "$expdir/log"
jobs=$expdir/jobs.txt
: >"$jobs"

# job STAGE NAME [--after A,B] [--inputs F,F] [--outputs F,F] [--fresh DIR] [--unless F] -- COMMAND
job() {
    local number=$1 name=$2
    shift 2
    if [ "$stage" -le "$number" ] && [ "$stop_stage" -ge "$number" ]; then
        { printf '%q ' --name "$name" --stage "$number" "$@" && echo; } >>"$jobs"
    fi
}

# Another seed or size is another corpus, beside this one.
corpus=$downloads/synthetic_${n_train}_${n_dev}_${n_test}_seed$seed
data=$datadir/${corpus##*/}
espnet=$data/espnet

# 1: the corpus
# shellcheck disable=SC2086  # options of several words
job 1 corpus --cores "$nj" --outputs "$corpus/corpus.json" -- \
    python "$ROOT/tools/synth_corpus.py" --layout librispeech --output "$corpus" \
    --train "$n_train" --dev "$n_dev" --test "$n_test" --speakers $speakers \
    --seed "$seed" --jobs "$nj"

# 2: data for lhotse, ESPnet and NeMo
job 2 data --after corpus --inputs "$corpus/corpus.json" \
    --outputs "$espnet/train/text,$espnet/dev/text,$espnet/test/text" -- \
    nas-encoder data prepare librispeech "$corpus/LibriSpeech" "$data" \
    --train train-clean-100 --dev dev-clean --test test-clean

# 3: the search
search_file=$ROOT/conf/search/$search_config.yaml
[ -f "$search_file" ] || search_file=$search_config
# shellcheck disable=SC2086
job 3 search --after data --inputs "$search_file,$espnet/train/text,$espnet/train/wav.scp,$espnet/dev/text" \
    --outputs "$expdir/search/genotype.yaml" --fresh "$expdir/search" -- \
    nas-encoder search --config "$search_config" --train "$espnet/train" --valid "$espnet/dev" \
    --output "$expdir/search" --seed "$seed" --resume $search_opts

# 4: a random genotype, and configs of equal size
job 4 genotype/random --outputs "$expdir/random/genotype.yaml" -- \
    python -m $local.sample_genotype --space "$space" --seed "$seed" \
    --output "$expdir/random/genotype.yaml"

for system in $systems; do
    waits=data
    genotype=()
    case $system in
        searched) template=nas waits=data,search genotype=(--genotype "$expdir/search/genotype.yaml") ;;
        random) template=nas waits=data,genotype/random genotype=(--genotype "$expdir/random/genotype.yaml") ;;
        *) template=$system ;;
    esac
    inputs=conf/train_common.yaml,conf/train_$template.yaml,$espnet/train/text
    job 4 "config/$system" --after "$waits" --inputs "$inputs${genotype[1]:+,${genotype[1]}}" \
        --outputs "$expdir/conf/epochs/$system.yaml" -- \
        python -m $local.make_config --common conf/train_common.yaml \
        --template "conf/train_$template.yaml" "${genotype[@]}" --parameters "$parameters" \
        --epochs "$epochs" --utterances "$espnet/train/text" \
        --stats "$expdir/stats/train/feats_stats.npz" --tokens "$expdir/tokens.txt" \
        --seed "$seed" --output "$expdir/conf/epochs/$system.yaml"
done

# 5: ESPnet's tokens and feature statistics, the same for all encoders. One job collects them,
# so there is nothing for aggregate_stats_dirs to add up.
job 5 tokens --after data --inputs "$espnet/train/text" --outputs "$expdir/tokens.txt" -- \
    python -m espnet2.bin.tokenize_text --token_type char --input "$espnet/train/text" \
    --output "$expdir/tokens.txt" --field 2- --write_vocabulary true \
    --add_symbol '<blank>:0' --add_symbol '<unk>:1' --add_symbol '<sos/eos>:-1'
pairs=()
for split in train valid; do
    folder=$espnet/${split/valid/dev}
    pairs+=("--${split}_data_path_and_name_and_type" "$folder/wav.scp,speech,sound")
    pairs+=("--${split}_data_path_and_name_and_type" "$folder/text,text,text")
done
job 5 stats --after tokens,config/${systems##* } \
    --inputs "$expdir/tokens.txt,$espnet/train/wav.scp,$espnet/dev/wav.scp,conf/train_common.yaml" \
    --outputs "$expdir/stats/train/feats_stats.npz,$expdir/stats/valid/speech_shape" -- \
    python -m espnet2.bin.asr_train --config "$expdir/conf/epochs/${systems##* }.yaml" \
    --normalize none --collect_stats true --output_dir "$expdir/stats" "${pairs[@]}" \
    --train_shape_file "$espnet/train/utt2dur" --valid_shape_file "$espnet/dev/utt2dur"

# 6 and 7: training
train() { # STAGE, run, jobs that it waits for, options of job
    local number=$1 run=$2 waits=$3
    shift 3
    job "$number" "train/$run" --after "$waits,stats" \
        --inputs "$expdir/conf/$run.yaml,$expdir/stats/train/feats_stats.npz,$expdir/tokens.txt" \
        --outputs "$expdir/models/$run/$inference_model" --fresh "$expdir/models/$run" "$@" -- \
        python -m espnet2.bin.asr_train --config "$expdir/conf/$run.yaml" \
        --output_dir "$expdir/models/$run" --resume true --ngpu 0 "${pairs[@]}" \
        --train_shape_file "$expdir/stats/train/speech_shape" \
        --valid_shape_file "$expdir/stats/valid/speech_shape"
}
# 8: decoding
decode() { # run, options of job
    local run=$1
    shift
    # shellcheck disable=SC2086
    job 8 "decode/$run" --after "train/$run" \
        --inputs "$expdir/models/$run/$inference_model,$espnet/test/wav.scp" \
        --outputs "$expdir/decode/$run/1best_recog/text" "$@" -- \
        python -m espnet2.bin.asr_inference --asr_train_config "$expdir/models/$run/config.yaml" \
        --asr_model_file "$expdir/models/$run/$inference_model" --ngpu 0 --num_workers 0 \
        --data_path_and_name_and_type "$espnet/test/wav.scp,speech,sound" \
        --key_file "$espnet/test/wav.scp" --output_dir "$expdir/decode/$run" $inference_args
}
decoded=
recorded= # the markers change when a model is decoded again
for system in $systems; do
    train 6 "epochs/$system" "config/$system"
done
for system in $others; do
    same=$expdir/conf/time/$system.same
    job 7 "plan/$system" --after "train/epochs/searched,train/epochs/$system" \
        --inputs "$expdir/.jobs/train/epochs/searched.json,$expdir/.jobs/train/epochs/$system.json" \
        --outputs "$expdir/conf/time/$system.yaml" -- \
        python -m $local.equal_time --expdir "$expdir" --reference train/epochs/searched \
        --reference-config "$expdir/conf/epochs/searched.yaml" --job "train/epochs/$system" \
        --config "$expdir/conf/epochs/$system.yaml" --output "$expdir/conf/time/$system.yaml" \
        --same "$same"
    train 7 "time/$system" "plan/$system" --unless "$same"
done
for system in $systems; do
    decode "epochs/$system"
    decoded+=,decode/epochs/$system
    recorded+=,$expdir/.jobs/decode/epochs/$system.json
done
for system in $others; do
    decode "time/$system" --unless "$expdir/conf/time/$system.same"
    decoded+=,decode/time/$system
    recorded+=,$expdir/.jobs/decode/time/$system.json
done

# 9: results
folders=()
trained=
for system in $systems; do
    folders+=("$system=$expdir/models/epochs/$system")
    trained+=,train/epochs/$system
done
# It takes all cores, so that nothing else disturbs the clock.
job 9 measure --after "${decoded#,}$trained" --cores "$nj" --outputs "$expdir/measure.json" \
    --inputs "$(for s in $systems; do printf '%s,' "$expdir/conf/epochs/$s.yaml"; done)" -- \
    python -m $local.measure "${folders[@]}" --repeats "$repeats" --seed "$seed" \
    --output "$expdir/measure.json"
job 9 results --after "measure${decoded}" \
    --outputs "$expdir/results/RESULTS.md,$expdir/results/results.json" \
    --inputs "$expdir/measure.json,$espnet/test/text,$corpus/corpus.json$recorded" -- \
    python -m $local.collect --expdir "$expdir" --systems $systems --reference "$espnet/test/text" \
    --corpus "$corpus/corpus.json" --seed "$seed" --output "$expdir/results" \
    --decoding="$inference_args" --command "recipes/mini/espnet/run.sh${given[*]:+ ${given[*]}}"

echo "$(date '+%F %T') stages $stage to $stop_stage, $nj jobs side by side"
python -m $local.run_jobs "$jobs" --expdir "$expdir" --nj "$nj"
if [ "$stop_stage" -ge 9 ]; then
    cat "$expdir/results/RESULTS.md"
    echo "$(date '+%F %T') results: $(cd "$expdir" && pwd)/results"
fi
