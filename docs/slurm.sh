#!/usr/bin/env bash
# Prediction of one large volume as a job array: sixteen shares, then the last pass.
#
#   sbatch docs/slurm.sh                                  the shares
#   sbatch --dependency=afterok:JOB --array=0 docs/slurm.sh    what follows them: pyramid, post-processing
#
#SBATCH --job-name=predict
#SBATCH --array=1-16
#SBATCH --gpus=1
#SBATCH --cpus-per-task=8
#SBATCH --mem=64G
#SBATCH --time=12:00:00
set -euo pipefail

share=()
if [ "$SLURM_ARRAY_TASK_ID" -gt 0 ]; then
    share=(--part "$SLURM_ARRAY_TASK_ID/16")
fi
python -m jax_seg.predict --workdir runs/v6 --input scroll.zarr --output scroll_mask.zarr "${share[@]}"
