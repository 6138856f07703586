"""Two and three real processes over gloo do what one process with their whole batch does.

Everything is computed in float64, so that a wrong factor cannot hide in rounding. Adam hides a uniform factor in the
gradients; they are compared by themselves.
"""

from __future__ import annotations

import multiprocessing
import os
import socket
from functools import cache
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType
from datasets import Dataset
from safetensors.torch import load_file
from torch.distributed.tensor import DTensor

import fclip.distributed
from fclip.batches import TrainingPictures, training_batches
from fclip.caching import backward
from fclip.captions import captions_for
from fclip.catalogue.drawn import draw_catalogue
from fclip.catalogue.schema import groups_of
from fclip.config import Preset, preset_from
from fclip.distributed import first_on_this_machine, gather, settle_launch
from fclip.errors import UserError
from fclip.order import BatchOrder
from fclip.pretrained import build_model
from fclip.resuming import continue_from, save_last
from fclip.sharding import whole
from fclip.training import Run

WHOLE_BATCH = 12
PLAIN = {"crop": 1, "aspect": 1, "flip": 0, "brightness": 0, "contrast": 0}
RUNS: dict[str, dict] = {
    "clip": {"loss": {"positives": "clip"}},
    "equal": {"loss": {"positives": "equal"}},
    "overlap": {"loss": {"positives": "overlap"}},
    "compatible and surfacing": {"loss": {"positives": "compatible", "surfacing": 0.7, "negatives": 99}},
    "a drawn bank": {"loss": {"surfacing": 0.7, "negatives": 2}},
    "texts locked": {"freeze": ("text.*",)},
    "pictures locked": {"freeze": ("visual.trunk.*",), "data": PLAIN},
    "all pictures locked": {"freeze": ("visual.*",), "data": PLAIN},
    "a first stage, then all": {"optim": {"head_epochs": 1}},
    "a first stage, then adapters": {"optim": {"head_epochs": 1}, "lora": {"rank": 2}},
    "sigmoid": {"loss": {"kind": "sigmoid", "positives": "equal"}},
    "a bias without use": {"loss": {"positives": "equal"}},
    "twenty steps": {"loss": {"positives": "equal"}, "epochs": 10},
}
CACHED = {
    "overlap": 3,
    "compatible and surfacing": 2,
    "a drawn bank": 2,
    "texts locked": 1,
    "pictures locked": 2,
    "sigmoid": 3,
}
"""The runs that are also made with gradient caching, and the pictures per pass."""
RUNS |= {f"{name}, cached": RUNS[name] | {"cache_chunk": chunk} for name, chunk in CACHED.items()}
SHARDED = ("equal", "overlap, cached", "compatible and surfacing, cached", "texts locked", "a first stage, then all")
SHARDED += ("sigmoid, cached", "a bias without use")
"""The runs that are also made with FSDP2."""


BIASED = ("sigmoid", "sigmoid, cached", "a bias without use")


@cache
def _catalogue() -> Dataset:
    """Twenty-six pictures: two are left over in every epoch."""
    return draw_catalogue(items=13, views=2, size_px=32)


def _preset(world: int, options: dict) -> Preset:
    keys = {"epochs": 2, "batch_size": WHOLE_BATCH // world, "track": "none"} | options
    tower = {"name": "timm:test_resnet", "image_size": (32, 32), "tokenizer": "trained"}
    sizes = {"embed_dim": 16, "text_width": 16, "text_layers": 1, "text_heads": 2}
    data = {"workers": 0} | keys.get("data", {})
    return preset_from(keys | {"model": tower | sizes, "data": data, "freeze_batch_norm": True})


def _run(world: int, options: dict, biased: bool = False) -> tuple[Run, list[dict]]:
    """A run, of a model with a logit bias or without, and this process's batches of all its steps."""
    preset, catalogue = _preset(world, options), _catalogue()
    captions = captions_for(groups_of(catalogue), drop=0.5)
    torch.manual_seed(0)
    texts = [captions.render(attributes) for attributes in catalogue["attributes"][:]]
    model = build_model(preset.model, captions, texts)
    if biased:
        model.clip.logit_bias = torch.nn.Parameter(torch.tensor(-3.0))
    model.double()
    pictures = TrainingPictures(catalogue, captions, model.preprocess, preset.data, preset.seed, preset.epochs)
    run = Run(preset, model, pictures, None)
    return run, list(training_batches(run.seen(False), model.tokenizer, run.order(), 0))


def _work(rank: int, world: int, port: int, out: Path) -> None:
    """One process: for every loss the first gradients, each step's loss, and the weights after four steps."""
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world, "MASTER_PORT": port}
    os.environ |= {k: str(v) for k, v in place.items()}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "ACCELERATE_USE_CPU": "true"}
    torch.set_num_threads(1)
    torch.Tensor.float = torch.Tensor.double
    kept = {"features": str(out / f"features-{world}")}
    found = {name: _steps(world, options | kept, name in BIASED) for name, options in RUNS.items()}
    found["features"] = sorted(os.listdir(kept["features"]))
    found["gathered"] = _gathered(rank)
    found["first"] = [_first(rank, fails) for fails in (None, 0, world - 1)]
    if world > 1:
        found["sharded"] = _sharded(world, out)
    torch.save(found, out / f"{world}-{rank}.pt")
    if world > 1:
        torch.distributed.destroy_process_group()


def _steps(world: int, options: dict, biased: bool) -> dict:
    run, batches = _run(world, options, biased)
    assert run.accelerator.num_processes == world
    run.training_mode()
    for batch in batches:
        batch.pop("skipped")
    backward(run.step_module, run.accelerator, batches[0], run.preset.cache_chunk)
    learning = [(name, p) for name, p in run.model.clip.named_parameters() if p.requires_grad]
    sizes = {name: value.shape for name, value in run.whole().state_dict().items()}
    gradients = {name: whole(p.grad).reshape(sizes[name]).clone() for name, p in learning}
    run.optimizer.zero_grad()
    losses = [run.take_step(batch, len(batches))["loss"] for batch in batches]
    return {"gradients": gradients, "losses": torch.stack(losses), "weights": dict(run.whole().state_dict())}


def _sharded(world: int, out: Path) -> dict:
    """The same with FSDP2, which accelerate has for GPUs only: it is told that there are some."""
    os.environ |= {
        "ACCELERATE_USE_FSDP": "true",
        "FSDP_VERSION": "2",
        "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    }
    os.environ |= {"FSDP_TRANSFORMER_CLS_TO_WRAP": "ResidualAttentionBlock"}
    fclip.distributed._refuse_fsdp = lambda: None
    AcceleratorState._reset_state(reset_partial_state=True)
    PartialState(cpu=True)
    PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
    found = {name: _steps(world, RUNS[name], name in BIASED) for name in SHARDED}
    return found | {"resumed": _resumed(world, out / f"{world}")}


def _resumed(world: int, out: Path) -> dict:
    """A run that is saved after its second step and goes on from there in another; and what it saved."""
    options = RUNS["equal"] | {"out": str(out)}
    run, batches = _run(world, options)
    for batch in batches:
        batch.pop("skipped")
    for batch in batches[:2]:
        run.take_step(batch, len(batches))
    save_last(run)
    saved = dict(run.whole().state_dict())
    run, _ = _run(world, options)
    assert isinstance(next(run.model.clip.parameters()), DTensor)
    continue_from(run, out / "last")
    for batch in batches[2:]:
        run.take_step(batch, len(batches))
    return {"saved": saved, "weights": dict(run.whole().state_dict())}


def _gathered(rank: int) -> torch.Tensor:
    """Each process gathers (1 row, of its rank), weighs the rows by 1, 2, … and returns its own row's gradient."""
    own = torch.full((1, 2), float(rank), dtype=torch.float64, requires_grad=True)
    rows = gather(own)
    assert torch.equal(rows.detach(), gather(own.detach()))
    (rows * torch.arange(1, len(rows) + 1)[:, None]).sum().backward()
    return torch.stack([rows[:, 0].detach().sum(), own.grad[0, 0]])


def _first(rank: int, fails: int | None) -> str:
    """How a process ends that works as the first or after it, where one of them cannot; and how often it worked."""
    tried = []

    def work() -> str:
        tried.append(rank)
        if rank == fails:
            raise UserError("no such catalogue")
        return "done"

    try:
        end = first_on_this_machine(work)
    except (UserError, SystemExit) as error:
        end = f"{type(error).__name__} {error}"
    return f"{len(tried)} {end}"


@pytest.fixture(scope="module")
def processes(tmp_path_factory) -> Path:
    """Where the processes leave what they find."""
    return tmp_path_factory.mktemp("processes")


@pytest.fixture(scope="module")
def results(processes) -> dict[int, list[dict]]:
    """Processes → what each of them found; one fork server imports for all."""
    out = processes
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["fclip.training", "fclip.pretrained", "fclip.catalogue.drawn", "peft"])
    started = []
    for world in (1, 2, 3):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        started += [context.Process(target=_work, args=(rank, world, port, out)) for rank in range(world)]
    for process in started:
        process.start()
    for process in started:
        process.join(120)
    assert [process.exitcode for process in started] == [0] * 6
    ranks = {world: range(world) for world in (1, 2, 3)}
    return {w: [torch.load(out / f"{w}-{r}.pt", weights_only=True) for r in of_w] for w, of_w in ranks.items()}


def test_twins_straddle_the_processes():
    """Else the tests below would not see positives that lie on another process."""
    catalogue = _catalogue()
    captions = captions_for(groups_of(catalogue))
    texts = [captions.render(attributes) for attributes in catalogue["attributes"][:]]
    for world in (2, 3):
        orders = [BatchOrder(len(texts), WHOLE_BATCH // world, 2, 0, rank, world) for rank in range(world)]
        steps = [[{texts[i % len(texts)] for i in part} for part in step] for step in zip(*orders, strict=True)]
        assert any(first & second for first, second, *_ in steps)


@pytest.mark.parametrize("world", [2, 3])
@pytest.mark.parametrize("options", RUNS)
def test_processes_together_equal_one(results, world, options):
    (alone,), parts = ([part[options] for part in results[w]] for w in (1, world))
    assert alone["losses"].dtype == torch.float64
    mean_loss = torch.stack([part["losses"] for part in parts]).mean(dim=0)  # the surfacing loss is each one's own
    torch.testing.assert_close(mean_loss, alone["losses"], rtol=1e-9, atol=1e-9)
    for part in parts:
        torch.testing.assert_close(part["gradients"], alone["gradients"], rtol=1e-8, atol=1e-10)
        torch.testing.assert_close(part["weights"], alone["weights"], rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("name", CACHED)
def test_gradient_caching_changes_nothing(results, world, name):
    for part in results[world]:
        cached, whole = part[f"{name}, cached"], part[name]
        torch.testing.assert_close(cached["losses"], whole["losses"], rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(cached["gradients"], whole["gradients"], rtol=1e-8, atol=1e-10)
        torch.testing.assert_close(cached["weights"], whole["weights"], rtol=1e-7, atol=1e-7)


def test_processes_together_keep_the_features_that_one_would(results):
    assert len(results[1][0]["features"]) == 2  # below the projection, and of the whole tower
    assert all(part["features"] == results[1][0]["features"] for parts in results.values() for part in parts)


@pytest.mark.parametrize("world", [2, 3])
@pytest.mark.parametrize("name", SHARDED)
def test_sharded_processes_equal_whole_ones(results, world, name):
    for part in results[world]:
        sharded, whole = part["sharded"][name], part[name]
        torch.testing.assert_close(sharded["losses"], whole["losses"], rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(sharded["gradients"], whole["gradients"], rtol=1e-8, atol=1e-10)
    sharded, whole = (of[name]["weights"] for of in (results[world][0]["sharded"], results[world][0]))
    torch.testing.assert_close(sharded, whole, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("world", [2, 3])
def test_a_sharded_run_saves_a_whole_checkpoint_and_is_resumed(results, processes, world):
    found = results[world][0]["sharded"]
    saved = load_file(processes / f"{world}" / "last" / "model.safetensors")
    torch.testing.assert_close(saved, found["resumed"]["saved"], rtol=0, atol=0)
    torch.testing.assert_close(found["resumed"]["weights"], found["equal"]["weights"], rtol=0, atol=0)


def test_the_gradient_of_a_gather_is_the_sum_over_the_processes(results):
    """W times the true one: the mean over processes in DDP takes that out again."""
    for world, parts in results.items():
        for rank, part in enumerate(parts):
            assert part["gathered"].tolist() == [sum(range(world)), world * (rank + 1)]


def test_a_process_that_fails_before_training_ends_the_others_in_silence(results):
    told, silent = "1 UserError no such catalogue", "SystemExit 2"
    assert [part["first"] for part in results[1]] == [["1 done", told, told]]
    for world in (2, 3):
        others = [["1 done", f"0 {silent}", f"1 {silent}"]] * (world - 2)
        expected = [["1 done", told, f"1 {silent}"], *others, ["1 done", f"0 {silent}", told]]
        assert [part["first"] for part in results[world]] == expected


def test_alone_gathering_changes_nothing():
    values = torch.randn(3, 2, requires_grad=True)
    assert gather(values) is values


LAUNCHED = ("WORLD_SIZE", "MASTER_ADDR", "ACCELERATE_USE_CPU", "OMPI_COMM_WORLD_SIZE", "ACCELERATE_USE_FSDP")
LAUNCHED += ("FSDP_CPU_RAM_EFFICIENT_LOADING",)


@pytest.fixture
def launched(monkeypatch):
    """launched(NAME=value, …): the environment as a launcher leaves it, on a machine without a GPU."""
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)

    def leave(**variables: str) -> None:
        for name in LAUNCHED:
            monkeypatch.setenv(name, "")  # so that it is put back whatever happens to it
            monkeypatch.delenv(name)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return leave


def test_several_processes_without_a_gpu_are_joined_over_the_cpu(launched):
    for by_accelerate in ({}, {"ACCELERATE_USE_CPU": "False"}):
        launched(WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", **by_accelerate)
        settle_launch()
        assert os.environ["ACCELERATE_USE_CPU"] == "true"


def test_one_process_in_place_of_several_is_refused(launched):
    """What `accelerate launch --cpu --num_processes 2` leaves in the environment of its only process."""
    launched(MASTER_ADDR="127.0.0.1", ACCELERATE_USE_CPU="True")
    with pytest.raises(UserError, match=r"expected several processes, but `accelerate launch` started one"):
        settle_launch()


def test_fsdp_without_a_gpu_is_refused(launched, monkeypatch):
    """Accelerate would train whole copies and say nothing."""
    launched(WORLD_SIZE="2", ACCELERATE_USE_FSDP="true", FSDP_CPU_RAM_EFFICIENT_LOADING="true")
    with pytest.raises(UserError, match=r"^FSDP needs GPUs, and none is here; launch without --use_fsdp"):
        settle_launch()
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    settle_launch()
    assert os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] == "false"  # it cannot broadcast a batch norm's statistics


def test_one_process_and_those_of_mpi_are_left_alone(launched):
    for variables in ({}, {"ACCELERATE_USE_CPU": "False"}, {"MASTER_ADDR": "node0"}):
        launched(**variables)
        settle_launch()
    launched(MASTER_ADDR="127.0.0.1", ACCELERATE_USE_CPU="True", OMPI_COMM_WORLD_SIZE="2")
    settle_launch()
    assert os.environ["ACCELERATE_USE_CPU"] == "True"
