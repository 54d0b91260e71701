# Read by the container's bash where BASH_ENV names this file (trainkit.sagemaker.FIRST_PROCESS): `train` takes the place
# of the bash that is about to run the SDK's start script. As the first process it hears a stop, and no value of the job
# goes through a shell. Any other bash of the job goes on as if this file were not there.
if [[ ${BASH_EXECUTION_STRING:-} == */sm_drivers/sm_train.sh ]]; then
    unset BASH_ENV
    exec "$(command -v python3 || command -v python)" "${BASH_SOURCE[0]%/*}/trainkit_driver.py"
fi
