"""Trains small runs and reads back what they leave for TensorBoard and Weights & Biases, with those programs' own code.

    python check.py EMBERFORMER

needs the packages wandb and tensorboard, and the client `wandb` on the PATH. The service is a stand-in on this machine.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from stub import Stub

DATA = Path(__file__).resolve().parents[1] / "data/fires_64_mini"
CONFIG = f"""
data: {{data_dir: {json.dumps(str(DATA))}, batch_size: 3}}
model:
  temporal: {{d_model: 8, nhead: 2, num_layers: 1, dim_feedforward: 16, fire_embedding: pixels}}
  spatial: {{hidden_sizes: [4, 4, 4, 4], decoder_width: 8, base_channels: 4}}
train: {{epochs: 3, lr: 1e-2, log_metrics_every: 1, checkpoint_every: 2, log_images_every: 1}}
patchify_on_disk: {{cache_dir: cache}}
split: {{train: 0.5, val: 0.2, test: 0.3}}
wandb: {{enabled: true, project: fires, tags: [check], notes: a note, group: pair, log_artifacts: true, max_preview_images: 2}}
"""


def train(place, *options, **environment):
    """A command line with what else subprocess needs to know."""
    return [sys.argv[1], "train", "--config", "tiny.yaml", "--device", "cpu", *options], {
        "cwd": place,
        "env": {**os.environ, **environment},
        "text": True,
    }


def rows_of(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def killed_then_resumed(place, name, *options, **environment):
    """A run that is killed within its second epoch and then goes on to its end."""
    command, settings = train(place, "--name", name, "--quiet", *options, **environment)
    child = subprocess.Popen(command, **settings)
    run = place / "runs" / name
    deadline = time.monotonic() + 120
    while len(lines_so_far(run)) < 7:
        assert child.poll() is None and time.monotonic() < deadline, "the run ended too early"
        time.sleep(0.001)
    child.send_signal(signal.SIGKILL)
    child.wait()
    command, settings = train(place, "--name", name, "--resume", "--quiet", *options, **environment)
    subprocess.run(command, check=True, **settings)
    return run


def lines_so_far(run):
    """The whole lines; one more may be under way."""
    metrics = run / "metrics.jsonl"
    return metrics.read_text().split("\n")[:-1] if metrics.exists() else []


def check_tensorboard(run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams import plugin_data_pb2
    from tensorboard.util import tensor_util

    # Nothing is left out of what is read.
    events = EventAccumulator(str(run), size_guidance={kind: 0 for kind in ["scalars", "images", "tensors"]}).Reload()
    expected = {}
    for row in rows_of(run):
        for name, value in row.items():
            if name != "step" and value is not None:
                expected.setdefault(name, []).append((row["step"], value))
    for name, points in expected.items():
        got = [(event.step, event.value) for event in events.Scalars(name)]
        assert len(got) == len(points), f"{name}: {got} instead of {points}"
        for (step, value), (step_expected, value_expected) in zip(got, points):
            assert step == step_expected and abs(value - value_expected) <= 1e-6 * max(1, abs(value_expected)), name
    result = json.loads((run / "result.json").read_text())["result"]
    [final] = events.Scalars("test/f1")
    assert abs(final.value - result["test"]["at_threshold"]["scores"]["f1"]) < 1e-6
    assert final.step == result["steps"]

    epochs = [row for row in rows_of(run) if "val/f1_epoch" in row]
    images = [tag for tag in events.Tags()["images"] if tag.startswith("val/preview/")]
    assert images, events.Tags()["images"]
    for tag in images:
        assert [event.step for event in events.Images(tag)] == [row["step"] for row in epochs], tag
        [name] = [event for event in events.Images(tag)][:1]
        assert name.encoded_image_string.startswith(b"\x89PNG") and name.width > 0 and name.height > 0

    curves = events.Tensors("val/pr_curve/pr_curves")
    assert [event.step for event in curves] == [row["step"] for row in epochs]
    assert events.SummaryMetadata("val/pr_curve/pr_curves").plugin_data.plugin_name == "pr_curves"
    curve = tensor_util.make_ndarray(curves[-1].tensor_proto)
    assert curve.shape == (6, 129)
    middle = [float(value) for value in curve[:, 64]]  # at the threshold 0.5
    assert abs(middle[4] - epochs[-1]["val/prec_epoch"]) < 1e-3 and abs(middle[5] - epochs[-1]["val/rec_epoch"]) < 1e-3

    def hparams(tag):
        return plugin_data_pb2.HParamsPluginData.FromString(events.SummaryMetadata(tag).plugin_data.content)

    infos = hparams("_hparams_/experiment").experiment
    assert "train.lr_temporal" in [info.name for info in infos.hparam_infos]
    metrics = [info.name.tag for info in infos.metric_infos]
    assert "test/f1" in metrics and all(events.Scalars(tag) for tag in metrics)
    start = hparams("_hparams_/session_start_info").session_start_info
    assert start.hparams["model.loss.type"].string_value == "focal_tversky"
    assert start.hparams["train.epochs"].number_value == 3
    assert hparams("_hparams_/session_end_info").session_end_info.status == 1
    print(f"TensorBoard: {len(expected)} scalars, {len(images)} pictures, {len(curves)} curves, settings")


def parts(run):
    return sorted((run / "wandb").glob("offline-run-*"))


def check_reader(run):
    """The official reader prints every record of every part."""
    from_reader = []
    for part in parts(run):
        output = subprocess.run(
            ["wandb", "leet", "inspect", "--json", str(part)], capture_output=True, text=True, check=True
        ).stdout
        records = [json.loads(line) for line in output.splitlines()]
        kinds = [record["type"] for record in records]
        assert kinds[0] == "run" and kinds[-1] == "exit", kinds
        assert {"environment", "stats", "output_raw", "history", "summary", "metric", "files"} <= set(kinds), set(kinds)
        from_reader += [record for record in records if record["type"] == "history"]
    assert len(from_reader) == len(rows_of(run)), (len(from_reader), len(rows_of(run)))
    print(f"wandb leet inspect: {len(from_reader)} rows in {len(parts(run))} parts")


def check_service(stub, run, whole_log):
    """The service has every line of metrics.jsonl, once and in order, and all else that the run gave."""
    id = (run / "wandb/run-id").read_text().strip()
    got = stub.runs[id]
    rows = rows_of(run)
    assert [row["_step"] for row in got["history"]] == list(range(len(rows))), [row["_step"] for row in got["history"]]
    for there, here in zip(got["history"], rows):
        for name, value in here.items():
            assert value is None or there[name] == value, (name, there.get(name), value)
    epochs = [row for row in got["history"] if "val/f1_epoch" in row]
    for row in epochs:
        pictures = [value for name, value in row.items() if name.startswith("preview/")]
        assert len(pictures) == 2
        for picture in pictures:
            data = stub.files[f"{id}/{picture['path']}"]
            assert picture["_type"] == "image-file" and data.startswith(b"\x89PNG") and len(data) == picture["size"]

    result = json.loads((run / "result.json").read_text())["result"]
    assert got["summary"]["test/f1"] == result["test"]["at_threshold"]["scores"]["f1"]
    assert got["summary"]["best/epoch"] == result["best_epoch"]
    assert got["summary"]["val/f1_epoch"] == epochs[-1]["val/f1_epoch"]
    assert got["config"]["train"]["value"]["epochs"] == 3
    assert got["exit"] == 0
    upsert = got["upserts"][0]
    assert upsert["project"] == "fires" and upsert["groupName"] == "pair" and upsert["notes"] == "a note"
    assert {"check", "focal_tversky", "cpu", "float32", "fires_64_mini"} <= set(upsert["tags"]), upsert["tags"]
    metrics = got["config"]["_wandb"]["value"]["m"]
    assert any(metric.get("1") == "val/f1_epoch" for metric in metrics), metrics
    assert any("system.proc.memory.rssMB" in event for event in got["events"]), got["events"]
    text = "".join(got["output"])
    assert "the result is in" in text and (not whole_log or "parameters" in text)
    for name in ["run_config.yaml", "split.json", "result.json"]:
        assert f"{id}/{name}" in stub.files, sorted(stub.files)

    [artifact] = [artifact for artifact in stub.artifacts if artifact["runName"] == id]
    number = stub.artifacts.index(artifact)
    assert artifact["committed"] and artifact["artifactCollectionName"] == f"{run.name}-best"
    assert json.loads(artifact["metadata"])["summary"]["test/f1"] == got["summary"]["test/f1"]
    best = (run / "checkpoints/best.safetensors").read_bytes()
    assert stub.files[f"artifact/a{number}/best.safetensors"] == best
    print(f"{run.name}: the service has {len(rows)} rows, {len(stub.files)} files, the best checkpoint")


def main():
    stub = Stub()
    service = {"WANDB_BASE_URL": stub.url, "WANDB_API_KEY": "0" * 40, "WANDB_ERROR_REPORTING": "false"}
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        (place / "tiny.yaml").write_text(CONFIG)
        run = killed_then_resumed(place, "killed")
        check_tensorboard(run)
        check_reader(run)
        command = ["wandb", "sync", *map(str, parts(run))]
        environment = {**os.environ, **service}
        done = subprocess.run(command, env=environment, cwd=place, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stdout + done.stderr
        check_service(stub, run, whole_log=False)

        # The same run online, which the client follows while it is written.
        command, settings = train(place, "--name", "live", "--set", "wandb.mode=online", **service)
        done = subprocess.run(command, capture_output=True, timeout=180, **settings)
        log = place / "runs/live/wandb/upload.log"
        assert done.returncode == 0 and "warning" not in done.stderr, done.stderr + log.read_text()
        check_service(stub, place / "runs/live", whole_log=True)
        assert (place / "runs/killed/metrics.jsonl").read_bytes() == (place / "runs/live/metrics.jsonl").read_bytes()

        # Killed while the client follows: it comes to the end of the first part once the run goes on.
        run = killed_then_resumed(place, "cut", "--set", "wandb.mode=online", **service)
        check_service(stub, run, whole_log=False)

        # Without the client, and without a login: one line that says how.
        for name, lacking, words in [
            ("alone", {"PATH": "/nowhere"}, "pip install wandb"),
            ("stranger", {"WANDB_API_KEY": ""}, "the upload ended early"),
        ]:
            options = ["--name", name, "--set", "wandb.mode=online", "--max-steps", "1"]
            command, settings = train(place, *options, **{**service, **lacking})
            done = subprocess.run(command, capture_output=True, timeout=180, check=True, **settings)
            told = [line for line in done.stderr.splitlines() if words in line]
            assert len(told) == 1 and str(parts(place / "runs" / name)[0]) in told[0], done.stderr
        print("without the client, and without a login, one line says how to upload")
    assert not stub.unknown, stub.unknown


main()
