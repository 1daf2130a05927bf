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

cd "$(dirname "${BASH_SOURCE[0]}")"
. ../local/path.sh
. ../local/recipe.sh
given=("$@")
numbers="stage stop_stage nj seed n_train n_dev n_test parameters epochs repeats"
parse_options "$numbers expdir datadir downloads tiny speakers search_config search_opts space \
inference_model inference_args systems" "$numbers" "$@"
split_systems "random transformer dfsmn_san"

if [ "$tiny" = true ]; then
    n_train=40 n_dev=6 n_test=8 speakers="4 2 2"
    search_config=tiny epochs=1 repeats=1
    search_opts="--set trainer.score_utterances=2 --set train_utterances=20"
    for number in 0 1 2; do
        search_opts+=" --set stages.$number.epochs=1 --set stages.$number.warmup_epochs=0"
    done
fi

begin_jobs espnet
espnet=$data/espnet

# 1 and 2: the corpus, and data for lhotse, ESPnet and NeMo
corpus_jobs "$espnet/train/text,$espnet/dev/text,$espnet/test/text"

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
    plan_jobs 7 "$system"
    train 7 "time/$system" "plan/$system" --unless "$expdir/conf/time/$system.same"
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
result_jobs 9 "measure${decoded}" "$recorded" "$espnet/test/text" \
    --decoding="$inference_args" --command "recipes/mini/espnet/run.sh${given[*]:+ ${given[*]}}"

run_all_jobs 9
