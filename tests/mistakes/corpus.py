"""The planted mistakes: each is one change of what is fine, and the code of the finding that it must lead to.

The last ones are real and not found: no file tells them. They count.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mistakes import base
from mistakes.base import ELF, FILES, GONE, IMAGE, MODEL, SCRIPT

_METRIC = "AlgorithmSpecification.MetricDefinitions[0].Regex"
_CHANNEL = "InputDataConfig[0]"
_S3 = f"{_CHANNEL}.DataSource.S3DataSource"
_TUNER = "HyperParameterTuningJobConfig"
_TRAIN = "usr/local/bin/train"


@dataclass(frozen=True)
class Case:
    """`changes` are the request's, `files` the code folder's, `image` and `model` theirs, `data` the channel train's.

    `finds` is the finding's code; "" for what is known not to be found.
    """

    name: str
    finds: str
    kind: str = "training"
    changes: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, Any] = field(default_factory=dict)
    image: Mapping[str, Any] | None = None
    model: Mapping[str, Any] | None = None
    data: Mapping[str, Any] | None = None
    packed_below: str | None = None
    """For a model: packed as model.tar.gz, below this folder in it."""


def script(old: str, new: str) -> dict[str, str]:
    assert old in SCRIPT, old
    return {"train.py": SCRIPT.replace(old, new)}


def write(case: Case, root: Path) -> list[str]:
    """Lay the case down. Returns the arguments of `trainkit check`."""
    if case.model is not None:
        folder = base.folder(root / "model", {**MODEL, **case.model})
        if case.packed_below is None:
            return [str(folder)]
        return [str(base.archive(folder, root / "model.tar.gz", below=case.packed_below))]
    image = (
        ["--image-root", str(base.folder(root / "image", {**IMAGE, **case.image}))] if case.image is not None else []
    )
    code = base.folder(root / "code", {**FILES, **case.files})
    request = root / "job.json"
    request.write_text(json.dumps(base.request(case.kind, dict(case.changes))))
    data = []
    if case.data is not None:
        place = base.folder(root / "data", dict(case.data))
        data = ["--channel", f"train={place}"] if case.data.get("gone") is None else ["--channel", f"train={root}/gone"]
    with_code = ["--code", str(code)] if case.kind != "processing" else []
    return [str(request), *with_code, *image, *data]


CASES = (
    # the request
    Case("a job name with an underscore", "api-pattern", changes={"TrainingJobName": "line_1"}),
    Case("a hyperparameter longer than the API takes", "api-limit", changes={"HyperParameters.text": "x" * 2501}),
    Case("a hyperparameter that is a number", "api-type", changes={"HyperParameters.lr": 0.01}),
    Case("an environment value that is too long", "api-limit", changes={"Environment": {"A": "x" * 513}}),
    Case("forty-one metrics", "api-limit", changes={
        "AlgorithmSpecification.MetricDefinitions": [{"Name": f"m{n}", "Regex": f"m{n}=(\\S+)"} for n in range(41)]}),
    Case("a role that is a name", "api-limit", changes={"RoleArn": "training"}),
    Case("a role that is a user", "api-pattern", changes={"RoleArn": "arn:aws:iam::123456789012:user/somebody"}),
    Case("an input mode that does not exist", "api-choice", changes={f"{_CHANNEL}.InputMode": "Fast"}),
    Case("a member that is misspelt", "api-unknown", changes={"Hyperparameters": {"lr": "1"}}),
    Case("no output path", "api-missing", changes={"OutputDataConfig": {}}),
    Case("data that is no S3 URI", "api-pattern", changes={f"{_S3}.S3Uri": "my-data/line"}),
    Case("data on this machine", "api-local-path", changes={f"{_S3}.S3Uri": "file:///data/line"}),
    Case("an instance type that does not exist", "api-instance-type", changes={
        "ResourceConfig.InstanceType": "ml.g5.13xlarge"}),
    Case("neither image nor algorithm", "no-image", changes={"AlgorithmSpecification.TrainingImage": GONE}),
    Case("an image of Docker Hub", "image-not-in-ecr", changes={"AlgorithmSpecification.TrainingImage": "me/train:1"}),
    Case("spot without a wait", "spot-without-wait", changes={"StoppingCondition.MaxWaitTimeInSeconds": GONE}),
    Case("a wait shorter than the run", "spot-wait-too-short", changes={"StoppingCondition.MaxWaitTimeInSeconds": 60}),
    Case("a wait without spot", "spot-wait-without-spot", changes={"EnableManagedSpotTraining": False}),
    Case("spot without checkpoints", "spot-without-checkpoints", changes={"CheckpointConfig": GONE}),
    Case("a warm pool of spot instances", "spot-warm-pool", changes={"ResourceConfig.KeepAlivePeriodInSeconds": 600}),
    Case("a run longer than the quota", "max-runtime-quota", changes={
        "StoppingCondition": {"MaxRuntimeInSeconds": 600_000, "MaxWaitTimeInSeconds": 700_000}}),
    Case("checkpoints in the model's folder", "checkpoints-path", changes={
        "CheckpointConfig.LocalPath": "/opt/ml/model/checkpoints"}),
    Case("checkpoints below the data", "checkpoints-in-data", changes={
        "CheckpointConfig.S3Uri": "s3://my-data/line/train/checkpoints/"}),
    Case("results below the data", "output-in-data", changes={
        "OutputDataConfig.S3OutputPath": "s3://my-data/line/train/models"}),
    Case("a key of another region", "region-differs", changes={
        "OutputDataConfig.KmsKeyId": "arn:aws:kms:eu-west-1:123456789012:key/1a2b"}),
    Case("a bucket of another region", "region-differs", changes={
        f"{_S3}.S3Uri": "s3://sagemaker-eu-central-1-123456789012/line/train/"}),
    Case("two channels of one name", "channel-twice",
         changes={"InputDataConfig[1]": base.REQUEST["InputDataConfig"][0]}),
    Case("a prefix that catches its sibling", "prefix-siblings", changes={
        f"{_S3}.S3Uri": "s3://my-data/line/train",
        "InputDataConfig[1]": {"ChannelName": "more", "DataSource": {"S3DataSource": {
            "S3DataType": "S3Prefix", "S3Uri": "s3://my-data/line/train2/"}}}}),
    Case("a wildcard", "uri-wildcard", changes={f"{_S3}.S3Uri": "s3://my-data/line/*.pt"}),
    Case("an augmented manifest in File mode", "manifest-mode", changes={
        f"{_S3}.S3DataType": "AugmentedManifestFile", f"{_S3}.AttributeNames": ["source"]}),
    Case("gzip in File mode", "gzip-mode", changes={f"{_CHANNEL}.CompressionType": "Gzip"}),
    Case("an instance group that there is not", "group-unknown", changes={f"{_S3}.InstanceGroupNames": ["gpus"]}),
    Case("a secret among the hyperparameters", "secret-in-request", changes={
        "Environment": {"HF_TOKEN": "hf_" + "a" * 30}}),
    Case("a setting of ours that is misspelt", "setting-unknown", changes={"Environment": {"TRAINKIT_PROC": "2"}}),
    Case("a setting of ours with a bad value", "setting", changes={"Environment": {"TRAINKIT_PROCS": "all"}}),
    Case("isolation, and requirements to install", "isolated-requirements", changes={"EnableNetworkIsolation": True},
         files={"requirements.txt": "einops==0.8\n"}),
    Case("isolation, and code on S3", "isolated-url", changes={
        "EnableNetworkIsolation": True,
             "HyperParameters.sagemaker_submit_directory": '"s3://my-code/sourcedir.tar.gz"'}),
    Case("isolation, and a model from the hub", "isolated-download", changes={"EnableNetworkIsolation": True},
         files=script("data = torch", 'm = AutoModel.from_pretrained("bert-base-uncased")\n    data = torch')),
    # metrics and tuning
    Case("a metric whose regex does not compile", "metric-regex", changes={_METRIC: "loss=([0-9.+"}),
    Case("a metric without a group", "metric-no-group", changes={_METRIC: "loss=[0-9.]+"}),
    Case("a metric that loses signs and exponents", "metric-loses-numbers", changes={_METRIC: "loss=([0-9.]+)"}),
    Case("a metric that the script never prints", "metric-never-found", changes={_METRIC: r"val_acc: (\S+)"}),
    Case("an objective that is no metric", "objective-undefined", "tuning", changes={
        f"{_TUNER}.HyperParameterTuningJobObjective.MetricName": "val:loss"}),
    Case("more trials at once than in all", "tuning-parallel", "tuning", changes={
        f"{_TUNER}.ResourceLimits.MaxParallelTrainingJobs": 9}),
    Case("a range upside down", "tuning-range", "tuning", changes={
        f"{_TUNER}.ParameterRanges.ContinuousParameterRanges[0].MinValue": "1.0"}),
    Case("the logarithm of zero", "tuning-logarithm", "tuning", changes={
        f"{_TUNER}.ParameterRanges.ContinuousParameterRanges[0].MinValue": "0"}),
    Case("a tuned value that the script refuses", "argument-choice", "tuning", changes={
        f"{_TUNER}.ParameterRanges.CategoricalParameterRanges[0].Values": ["adam", "lion"]}),
    # the script
    Case("a script that is not there", "script-missing", changes={"HyperParameters.sagemaker_program": "main.py"}),
    Case("a syntax error", "syntax", files=script("model = Dist", "model = = Dist")),
    Case("a syntax error in a module", "syntax", files={"layers.py": "def line(:\n"}),
    Case("a package that nobody installs", "import-missing",
         files=script("import torch\n", "import torch\nimport einops_x\n")),
    Case("a module that stayed at home", "import-missing", files={"layers.py": None}, image={}),
    Case("a relative import in the script", "import-relative", files=script("from layers", "from .layers")),
    Case("a file called like a library", "module-shadows", files={"random.py": ""}),
    Case("a hyperparameter that the script does not know", "argument-unknown",
         changes={"HyperParameters.learning_rte": "1"}),
    Case("a required argument that nobody gives", "argument-missing", changes={"HyperParameters.epochs": GONE}),
    Case("text where a number is wanted", "argument-type", changes={"HyperParameters.epochs": "3.0"}),
    Case("a choice that there is not", "argument-choice", changes={"HyperParameters.optimizer": "lion"}),
    Case("a value for a flag", "argument-flag", changes={"HyperParameters.compile": "true"}),
    Case("a text that begins with a dash", "argument-dash", changes={"HyperParameters.optimizer": "-sgd"}),
    Case("type=bool, and False", "argument-bool-false", changes={"HyperParameters.amp": "False"},
         files=script('type=lambda text: text == "true"', "type=bool")),
    Case("job.hp of another type", "hyperparameter-type", changes={"HyperParameters.lr": "fast"},
         files={"train.py": "import trainkit\n\njob = trainkit.job()\nlr = job.hp('lr', 0.1)\njob.save_model(None)\n"}),
    Case("a name that no job.hp asks for", "hyperparameter-unread", changes={"HyperParameters": {"learning_rate": "1"}},
         files={"train.py": "import trainkit\n\njob = trainkit.job()\nlr = job.hp('lr', 0.1)\njob.save_model(None)\n"}),
    Case("a channel that the job does not have", "channel-unasked",
         files=script("SM_CHANNEL_TRAIN", "SM_CHANNEL_TRAINING")),
    Case("a folder for a pipe", "channel-is-pipe", changes={f"{_CHANNEL}.InputMode": "Pipe"},
         files=script('os.environ["SM_CHANNEL_TRAIN"] + "/data.pt"', 'job.channel("train") / "data.pt"')),
    Case("hosts that do not talk", "hosts-train-apart", files={
        "train.py": "import torch\nimport os\nmodel = torch.nn.Linear(1, 1)\n"
        "torch.save(model, os.environ['SM_MODEL_DIR'] + '/m.pt')\n"}),
    Case("CUDA on a CPU", "cuda-without-gpu", changes={"ResourceConfig.InstanceType": "ml.c5.xlarge"},
         files=script("line().to(job.device)", "line().cuda()")),
    Case("a GPU that nobody uses", "gpu-unused", files=script("line().to(job.device)", "line()")),
    Case("more workers than CPUs", "workers-without-cpus",
         files=script("data = torch.load",
             "loader = torch.utils.data.DataLoader([], num_workers=32)\n    data = torch.load")),
    Case("a debugger left in", "waits-for-a-person", files=script("loss.backward()", "breakpoint()")),
    Case("a model that vanishes", "file-vanishes",
         files=script("job.save_model(model)", 'torch.save(model, "model.pt")')),
    Case("no model at all", "no-model", files=script("job.save_model(model)", "pass")),
    Case("a path of the author's laptop", "path-of-another-machine",
         files=script('os.environ["SM_CHANNEL_TRAIN"] + "/data.pt"', '"/home/somebody/data.pt"')),
    Case("a file written into a channel", "input-is-read-only",
         files=script("job.save_model(model)", 'job.save_model(model)\n    open("/opt/ml/input/data/train/log", "w")')),
    Case("checkpoints in the model, by the Trainer", "checkpoints-in-model", changes={
        "HyperParameters.output_dir": "/opt/ml/model"}),
    Case("checkpoints that nobody writes", "checkpoints-unused", files={
        "train.py": "import trainkit\n\njob = trainkit.job()\nprint(job.world_size)\njob.save_model(None)\n"}),
    # data
    Case("a channel that is not there", "channel-missing", data={"gone": ""}),
    Case("a channel without files", "channel-empty", data={}),
    Case("a channel of empty files", "channel-hollow", data={"a.pt": "", "b.pt": ""}),
    Case("fewer files than hosts", "shards-too-few", changes={f"{_S3}.S3DataDistributionType": "ShardedByS3Key"},
         data={"data.pt": "x"}),
    # the image
    Case("an image without train", "image-no-train", image={_TRAIN: None}),
    Case("train that is not executable", "image-not-executable", image={_TRAIN: (base.TRAIN, 0o644)}),
    Case("train with Windows line ends", "image-crlf", image={_TRAIN: (base.TRAIN.replace(b"\n", b"\r\n"), 0o755)}),
    Case("train without a shebang", "image-no-shebang", image={_TRAIN: ("import trainkit\n", 0o755)}),
    Case("an interpreter that is not there", "image-interpreter", image={_TRAIN: ("#!/opt/conda/bin/python\n", 0o755)}),
    Case("an image built on an ARM laptop", "image-architecture", image={
        "usr/bin/python3": (ELF[:18] + b"\xb7\0" + ELF[20:], 0o755)}),
    Case("a package that the image lacks", "import-missing", image={},
         files=script("import torch\n", "import torch\nimport transformers\n")),
    Case("files where the service mounts its own", "image-hidden", image={"opt/ml/model/base.pt": "x"}),
    # the model
    Case("weights that are cut short", "artifact-safetensors", model={
        "model.safetensors": base.tensors(claimed=8, actual=4), "trainkit.json": None}),
    Case("weights that were changed", "artifact-manifest", model={"model.safetensors": base.tensors()[:-1] + b"\1"}),
    Case("a model one folder too deep", "artifact-nested", model={}, packed_below="model/"),
    Case("checkpoints in the model", "artifact-checkpoints",
         model={"checkpoint-500/model.safetensors": base.tensors()}),
    Case("no weights", "artifact-no-weights", model={"model.safetensors": None, "trainkit.json": None}),
    Case("inference code that does not compile", "artifact-inference-syntax",
         model={"code/inference.py": "def model_fn(:"}),
    Case("inference code in the wrong place", "artifact-inference-misplaced", model={
        "code/inference.py": None, "inference.py": "def model_fn(model_dir): ..."}),
    # what no file tells
    Case("a batch that does not fit the GPU", "", files=script("line()", "torch.nn.Linear(100_000, 100_000)")),
    Case("a file name that the channel does not have", "", data={"data-v2.pt": "x"}),
    Case("an import behind a function's door, by name", "",
         files=script("import torch\n", 'import importlib\n\nimport torch\n\nimportlib.import_module("einops_x")\n')),
    Case("hyperparameters that swap their meaning", "",
         changes={"HyperParameters.lr": "3", "HyperParameters.epochs": "1"}),
    Case("a bucket that does not exist", "", changes={f"{_S3}.S3Uri": "s3://no-such-bucket/line/train/"}),
    Case("versions that do not fit each other", "", files={"requirements.txt": "torch==1.0\nnumpy==2.3\n"}),
)  # fmt: skip
