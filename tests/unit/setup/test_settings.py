"""Chosen settings: they fit by the plan's own estimate, or `new` says that nothing fits and what would."""

from pathlib import Path

import pytest

from cogtune.errors import UserError
from cogtune.plan.estimate import Estimator
from cogtune.plan.history import History
from cogtune.plan.stage_costs import cost_of
from cogtune.runtime.machines import Machine
from cogtune.setup.fitting import peak, room
from cogtune.setup.models import START_MODELS, start_model
from cogtune.setup.settings import NewExperiment, Setting, Wish, choose
from cogtune.work.load import load_config
from cogtune.work.stages import STAGES
from tests.unit.setup.wishes import data, device, wish

REPO = Path(__file__).parents[3]
CARDS = (("8GB", 1), ("T4", 1), ("4090", 1), ("4090", 8), ("A100", 1), ("A100", 8))
MODELS = [name for name in START_MODELS if name != "toy"]


@pytest.fixture(autouse=True)
def in_the_clone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPO)


def value_of(experiment: NewExperiment, key: str) -> object:
    return next((one.value for one in experiment.settings if one.key == key), None)


def chosen_or_refused(asked: Wish) -> tuple[NewExperiment | None, str]:
    try:
        return choose(asked), ""
    except UserError as error:
        return None, str(error)


@pytest.mark.heavy
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("lora", [True, False])
def test_what_is_chosen_fits(model: str, lora: bool, tmp_path: Path) -> None:
    """Cards x families x ranks. The config is read from the lines as a user would have them in the file."""
    for card, ranks in CARDS:
        experiment, refusal = chosen_or_refused(wish(model, card, lora, ranks))
        if experiment is None:
            assert "does not fit on" in refusal
            assert float(refusal.split(" needs ")[1].split(" GB")[0]) >= device(card).memory / 1e9
            continue
        config = load_config(experiment.base, [one.override for one in experiment.settings], check_files=False)
        estimator = Estimator(config.values, {}, ranks, Machine(device(card), ranks), History(tmp_path, tmp_path))
        for stage in STAGES:
            needed = peak(stage, config.values, ranks, device(card))
            assert needed == experiment.peaks[stage]
            assert needed <= room(device(card))
            cost = cost_of(STAGES[stage])(estimator._costs)
            assert (needed or 0) == pytest.approx(estimator._device_bytes(cost, ranks) if needed else 0)
        assert not [remark for remark in experiment.remarks if "will hardly learn" in remark]


def test_what_does_not_fit_names_what_would() -> None:
    """And the GPU that it names is enough."""
    for model, card, lora, ranks in (("cogvideox-5b", "16GB", False, 1), ("cogvideox-5b", "8GB", True, 8)):
        with pytest.raises(UserError, match=r"\w+ needs [\d.]+ GB of memory, with 9 frames") as caught:
            choose(wish(model, card, lora, ranks))
        needed = float(str(caught.value).split("a GPU with ")[1].split(" GB")[0])
        assert choose(wish(model, f"{needed + 0.1:.1f}GB", lora, ranks))
    assert "sample needs" in str(caught.value), "it holds the whole network"
    with pytest.raises(
        UserError, match=r"train needs .*, or more GPUs \(--ranks\), or --lora, or --model cogvideox-2b"
    ):
        choose(wish("cogvideox-5b", "16GB", lora=False))


@pytest.mark.heavy
def test_more_memory_never_chooses_a_slower_setting() -> None:
    order = ["selective", "attention", "full"]
    for model in MODELS:
        policies = list[str]()
        for card in ("24GB", "32GB", "48GB", "80GB", "192GB"):
            try:
                policies.append(str(value_of(choose(wish(model, card)), "args.checkpoint_activations")))
            except UserError:
                continue
        assert policies == sorted(policies, key=order.index, reverse=True)
        assert policies[-1] == "selective"


@pytest.mark.parametrize(
    ("model", "lora", "rate"),
    [("cogvideox-5b", True, 1e-3), ("cogvideox-5b", False, 1e-5), ("toy", False, 1e-3), ("toy", True, 2e-3)],
)
def test_the_rate_fits_the_kind_of_training(model: str, lora: bool, rate: float) -> None:
    card = "CPU" if model == "toy" else "B200"
    experiment = choose(wish(model, card, lora, ranks=1 if model == "toy" else 8))
    assert experiment.config.values["args"]["lr"] == rate


@pytest.mark.parametrize(
    ("model", "card", "fp16", "bf16"),
    [("cogvideox-2b", "A100", True, False), ("cogvideox-5b", "A100", False, True), ("toy", "CPU", False, False)],
)
def test_precision(model: str, card: str, fp16: bool, bf16: bool) -> None:
    section = choose(wish(model, card, lora=model != "toy")).config.values["deepspeed"]
    assert (section["fp16"]["enabled"], section["bf16"]["enabled"]) == (fp16, bf16)


@pytest.mark.parametrize(
    ("seconds", "frames", "kept"),
    [
        ((8, 8, 8), 49, 3),
        ((8, 8, 2.1), 17, 3),  # two of three are fewer than nine tenths
        ((*[8] * 19, 2.1), 49, 19),
        ((6.1,), 49, 1),  # only if no frame is left out at the ends
        ((1.1,), 9, 1),
    ],
)
def test_frames_that_the_clips_allow(seconds: tuple[float, ...], frames: int, kept: int) -> None:
    experiment = choose(wish(data=data(*seconds)))
    assert value_of(experiment, "data.params.max_num_frames") == frames
    (why,) = [one.why for one in experiment.settings if one.key == "data.params.max_num_frames"]
    assert f"{kept} of {len(seconds)} clips are long enough" in why


def test_other_lengths_are_said() -> None:
    remarks = " ".join(choose(wish(data=data(*[3.1] * 8, 8, 8))).remarks)
    assert "21 frames" not in remarks
    assert "25 frames at 8 fps (3.0 s): 10 of 10 clips" in remarks
    assert "49 frames at 8 fps (6.0 s): 2 of 10 clips" in remarks


def test_clips_that_are_too_short() -> None:
    with pytest.raises(UserError, match="too short: 9 frames are the least; 5 frames at 8 fps"):
        choose(wish(data=data(0.6, 0.7)))
    with pytest.raises(UserError, match="--frames 49: all clips are shorter; possible: 17 frames"):
        choose(wish(data=data(2.1), frames=49))
    with pytest.raises(UserError, match=r"50 is not 4k \+ 1"):
        choose(wish(frames=50))


def test_frames_given_by_the_user_are_kept() -> None:
    experiment = choose(wish(data=data(8, 8, 2), frames=49))
    assert value_of(experiment, "data.params.max_num_frames") == 49


def test_every_setting_says_why_and_reads_as_typed() -> None:
    folder = 'my: clips, {ü} "x" #1'
    for model in START_MODELS:
        experiment = choose(wish(model, "B200", lora=model != "toy", data=data(8, 8, folder=folder)))
        assert [one.key for one in experiment.settings if not one.why and one.key != "deepspeed.bf16.enabled"] == []
        assert experiment.config.values["args"]["train_data"] == [folder]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1e-5, "k=1e-05"), (2, "k=2"), (True, "k=true"), (None, "k=null"), ("full", "k=full"), ([1, 2], "k=[1,2]"),
        (["base"], "k=[base]"), (["a/b c"], 'k=["a/b c"]'), (["ü"], 'k=["ü"]'), ([], "k=[]"),
    ],
)  # fmt: skip
def test_a_setting_as_text(value: object, text: str) -> None:
    assert Setting("k", value, "").override == text


def test_an_unknown_model_has_a_near_one() -> None:
    with pytest.raises(UserError, match=r"did you mean 'cogvideox-5b'"):
        start_model("cogvideox-5")
    with pytest.raises(UserError, match="expected one of cogvideox-2b"):
        start_model("sora")
