"""`guava-aug evaluate`, whole: a painted person and the tiny model, and what goes wrong."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cv2
import pytest
import torch
from rich.console import Console

from guava_aug.apps.evaluation.measure import (
    METHODS,
    METRICS,
    SELF,
    PersonResult,
    Scores,
    Truth,
    check_model_fits,
    frame_numbers,
    measure_person,
    person_name,
)
from guava_aug.apps.evaluation.metrics import PSNR_CEILING
from guava_aug.apps.evaluation.report import (
    SCHEMA,
    SHEET_BYTES,
    SHEET_CELL,
    SHEET_ROWS,
    example_frames,
    floors,
    mean_scores,
)
from guava_aug.apps.synthetic.bank import Bank
from guava_aug.apps.synthetic.pairs import HELD_OUT_SEEDS, LIFELIKE_SEEDS
from guava_aug.avatar.model import load_model
from guava_aug.cli import main
from guava_aug.cli.evaluate import EvaluateFlags, chosen_seeds, floors_table
from guava_aug.errors import AssetError, UsageError
from guava_aug.views import plan_views
from tiny_model import SIZE, write_tiny_model

VIEWS = ("easy", "medium", "hard")


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model") / "tiny.safetensors")


@pytest.fixture(scope="module")
def run(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of one evaluation of one painted person in two frames."""
    out = tmp_path_factory.mktemp("evaluation")
    argv = ["evaluate", "--subjects", "1", "--frames", "2", "--model_path", str(tiny_model), "--device", "cpu"]
    assert main([*argv, "--output", str(out), "--sheet", str(out / "subjects.jpg")]) == 0
    return out


def test_the_report_has_everything(run: Path, tiny_model: Path):
    report = json.loads((run / "evaluation.json").read_text(encoding="utf-8"))
    assert report["schema"] == SCHEMA and report["seeds"] == [HELD_OUT_SEEDS[0]] and report["held_out"]
    assert report["frames"] == [50, 99] and report["image_size"] == SIZE and report["bank"] is None
    assert report["checkpoint"]["path"] == str(tiny_model) and len(report["checkpoint"]["sha256"]) == 64
    assert report["versions"]["torch"] and report["machine"]["device"] == "cpu" and report["seconds"] > 0
    assert {"ours", "raw", "mesh", "input", *METRICS} <= set(report["definitions"])
    [person] = report["people"]
    assert person["name"] == person_name(HELD_OUT_SEEDS[0]) and person["outfit"] == "painted"
    for scores in (report["mean"], person["scores"]):
        assert list(scores) == [SELF, *VIEWS]
        for view, by_method in scores.items():
            assert list(by_method) == [m for m in METHODS if (view, m) != (SELF, "input")]
            for found in by_method.values():
                assert set(found) == set(METRICS)
                assert all(0 < found[m] < PSNR_CEILING for m in METRICS if "psnr" in m)
                assert all(-1 <= found[m] < 1 for m in METRICS if "ssim" in m)
    assert report["mean"] == person["scores"]
    for view in plan_views(person["name"], VIEWS):
        assert person["views"][view.difficulty] == {k: getattr(view, k) for k in ("yaw", "pitch", "zoom", "seed")}
    assert {f["met"] for f in report["floors"]} == {False}  # of random weights
    assert len(report["floors"]) == 12


def test_the_baselines_are_in_order(run: Path):
    """Random weights lose to a textured mesh, which beats the picture that was not turned."""
    mean = json.loads((run / "evaluation.json").read_text(encoding="utf-8"))["mean"]
    for view in VIEWS:
        person = {m: mean[view][m]["person_psnr"] for m in METHODS}
        assert person["mesh"] > person["input"] + 2 and person["mesh"] > person["ours"] + 5


def test_there_is_a_sheet_of_every_view(run: Path):
    for view in (SELF, *VIEWS):
        sheet = cv2.imread(str(run / f"{view}.png"))
        rows, columns = 2, 4  # both frames; truth, ours, mesh, input
        assert rows * 256 < sheet.shape[0] < rows * 256 + 100 and columns * 256 < sheet.shape[1] < columns * 256 + 200


def test_the_sheet_of_subjects_is_small(run: Path):
    sheet = cv2.imread(str(run / "subjects.jpg"))
    rows, columns = 4, 4  # self, easy, medium, hard; truth, ours, mesh, input
    assert sheet.shape[0] > rows * SHEET_CELL and sheet.shape[1] > columns * SHEET_CELL
    assert (run / "subjects.jpg").stat().st_size <= SHEET_BYTES < 250_000


def test_the_table_for_a_page_has_the_figures(run: Path):
    lines = (run / "evaluation.md").read_text(encoding="utf-8").splitlines()
    report = json.loads((run / "evaluation.json").read_text(encoding="utf-8"))
    assert "painted on the bare body" in lines[0] and report["people_are"] == "painted"
    by_row = {tuple(c.strip() for c in line.split("|")[1:3]): line.split("|")[3:-1] for line in lines[4:]}
    assert len(by_row) == sum(len(by) for by in report["mean"].values())
    for (view, method), cells in by_row.items():
        assert float(cells[2]) == pytest.approx(report["mean"][view][method]["person_psnr"], abs=0.051)


@pytest.mark.thorough
def test_painted_people_are_said_to_be_painted(tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    argv = ["--subjects", "1", "--frames", "1", "--difficulties", "easy", "--model_path", str(tiny_model)]
    assert main(["evaluate", *argv, "--device", "cpu", "--output", str(tmp_path)]) == 0
    said = capsys.readouterr()
    assert "no --bank" in said.err and "not comparable" in said.out and "(no --bank)" in said.out


@pytest.mark.thorough
def test_same_arguments_same_figures_whichever_difficulties(run: Path, tiny_model: Path):
    before = json.loads((run / "evaluation.json").read_text(encoding="utf-8"))["people"][0]
    model = load_model(tiny_model)
    seen: list[str] = []
    again = measure_person(model, Bank.bare(), before["seed"], [50, 99], ["medium"], on_frame=seen.append)
    assert seen == [SELF, "medium"] * 2 and not again.examples
    assert again.views["medium"].yaw == before["views"]["medium"]["yaw"]
    for view in (SELF, "medium"):
        for method, found in again.scores[view].items():
            for metric in METRICS:
                assert getattr(found, metric) == pytest.approx(before["scores"][view][method][metric], abs=1e-4)


def test_a_model_on_another_body_is_refused(tiny_model: Path):
    model = load_model(tiny_model)
    assets = model.body.assets
    other = replace(assets, body=replace(assets.body, v_template=assets.body.v_template + 0.01))
    model.body.assets = other
    with pytest.raises(AssetError, match="free body"):
        check_model_fits(model, Bank.bare())


def test_frames_are_spread_over_the_motion_without_its_source():
    assert frame_numbers(1) == [99] and frame_numbers(3) == [33, 66, 99] and frame_numbers(99) == list(range(1, 100))
    for count in (0, 100):
        with pytest.raises(UsageError, match="1 to 99"):
            frame_numbers(count)


@pytest.mark.parametrize("subjects", [1, 2, 4, 8])
def test_sheets_do_not_grow_with_the_run(subjects: int):
    rows = example_frames(frame_numbers(20), subjects)
    assert len(set(rows)) * min(subjects, SHEET_ROWS) == SHEET_ROWS
    assert example_frames([99], subjects) == [99]


def test_people_are_chosen_by_count_or_seed():
    assert chosen_seeds(EvaluateFlags()) == HELD_OUT_SEEDS
    assert chosen_seeds(EvaluateFlags(subjects=2)) == HELD_OUT_SEEDS[:2]
    assert chosen_seeds(EvaluateFlags(seeds=(5, 6, 7), subjects=2)) == (5, 6)
    assert chosen_seeds(EvaluateFlags(variety="lifelike")) == LIFELIKE_SEEDS
    for flags in (
        {"subjects": 0},
        {"subjects": 9},
        {"subjects": 2, "seeds": (4,)},
        {"seeds": (4, 4)},
        {"seeds": (-1,)},
    ):
        with pytest.raises(UsageError, match="expected"):
            chosen_seeds(EvaluateFlags(**flags))


@pytest.mark.parametrize(
    ("argv", "word"),
    [
        (["--frames", "100"], "1 to 99"),
        (["--subjects", "9"], "1 to 8"),
        (["--people", "9"], "1 to 8"),  # its name in 0.1.0
        (["--difficulties", "mediun"], "did you mean 'medium'"),
        (["--bank", "nowhere.npz"], "nowhere.npz"),
        (["--model_path", "nowhere"], "nowhere"),
        (["--device", "toaster"], "toaster"),
        (["--sheet", "a.gif"], "a.gif"),
        (["--sheet", "a.jpg", "--sheet_subjects", "0"], "at least 1"),
    ],
)
def test_wrong_flags_are_named(argv: list[str], word: str, capsys: pytest.CaptureFixture, tmp_path: Path):
    assert main(["evaluate", "--quiet", "--output", str(tmp_path / "out"), *argv]) == 2
    assert word in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def scores(person: float | None, psnr: float = 30.0) -> Scores:
    return Scores(psnr, 0.9, person, 0.8, 5.0, None, 20.0)


def test_means_are_of_subjects_and_floors_of_means():
    def person(seed: int, self_: float, medium: float) -> PersonResult:
        by_view = {
            SELF: {"ours": scores(self_), "mesh": scores(20.0)},
            "medium": {"ours": scores(medium), "mesh": scores(19.0), "input": scores(15.0)},
        }
        return PersonResult(seed, person_name(seed), "o", "h", {}, by_view, [])

    mean = mean_scores([person(1, 21.0, 20.0), person(2, 24.0, 21.0)])
    assert mean[SELF]["ours"].person_psnr == 22.5 and mean[SELF]["ours"].face_psnr is None
    found = {f.what: (f.found, f.met) for f in floors(mean)}
    assert found == {
        "self: person PSNR": (22.5, True), "self: whole picture PSNR": (30.0, True),
        "medium: person PSNR": (20.5, True), "medium: whole picture PSNR": (30.0, True),
        "medium: person PSNR over input": (5.5, True), "medium: person PSNR over mesh": (1.5, True),
    }  # fmt: skip
    mean["medium"]["ours"] = scores(19.9, psnr=27.9)
    console = Console(record=True, width=120)
    console.print(floors_table(floors(mean)))
    text = console.export_text()
    assert text.count(" NO ") == 3 and text.count(" yes ") == 3


def test_what_cannot_be_seen_has_no_score():
    nobody = Truth(torch.zeros(3, 32, 32), torch.zeros(32, 32, dtype=torch.bool), {})
    found = nobody.score(torch.full((3, 32, 32), 0.1))
    assert found["psnr"] == pytest.approx(20, abs=1e-3)
    assert all(v is None for k, v in found.items() if k not in ("psnr", "ssim"))
