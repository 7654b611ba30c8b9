#!/usr/bin/env bash
# From pictures to scores with the command line alone: embed -> join -> train -> predict (NIfTI, too) -> evaluate.
#
#   end_to_end.sh WORK IMAGES WEIGHTS BACKBONE RESPONSES.nc TRAINING.nc...
#
# IMAGES: folder of pictures. WEIGHTS, BACKBONE: of the image encoder. RESPONSES.nc: of the new subject, by image_id,
# without embeddings. TRAINING.nc: other subjects' response sets, without embeddings, on the same pictures.
# BRAINCL names the command (default: braincl). NIFTI=1: the voxels of RESPONSES.nc have a grid, write NIfTI, too.
set -euo pipefail

work=$1 images=$2 weights=$3 backbone=$4 responses=$5
shift 5
braincl=${BRAINCL:-braincl}
cd "$work"

$braincl embed "$images" --backbone "$backbone" --weights "$weights" --device cpu --out features.nc
subjects=()
for training in "$@"; do
    joined=training_${#subjects[@]}.nc
    $braincl join "$training" features.nc --out "$joined"
    subjects+=("$joined")
done
$braincl join "$responses" features.nc --out subject.nc
$braincl train "${subjects[@]}" --out model --steps "${STEPS:-2}" --seed 0
$braincl predict --model model --context subject.nc --images features.nc --out prediction.nc \
    ${NIFTI:+--nifti prediction.nii.gz}
$braincl evaluate --model model subject.nc --contexts "${CONTEXTS:-10,20}" --draws 2 --test-images "${TEST_IMAGES:-15}" \
    --seed 0 --json scores.json
