"""Exports read again with other libraries: parquet and PNG files, and videos."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from fog_bringup import store_export_lerobot, store_export_mp4
from fog_bringup.cli import main
from fog_bringup.store_export_lerobot import IMAGE_KEY, export_lerobot
from fog_bringup.store_export_mp4 import export_mp4, psnr_db, read_video
from fog_world_model.data.episodes import EpisodeStore
from fog_world_model.errors import FogError


def read_json(path: Path) -> Any:
    return json.loads(path.read_text())


def order(store: EpisodeStore) -> list[int]:
    """The training episodes, then the others."""
    return [*store.split("training").tolist(), *store.split("validation").tolist()]


@pytest.fixture(scope="module")
def exported(store: EpisodeStore, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_lerobot(store, tmp_path_factory.mktemp("lerobot") / "set")


def test_lerobot_rows_are_the_transitions(store: EpisodeStore, exported: Path) -> None:
    rows = pq.read_table(exported / "data/chunk-000/file-000.parquet").to_pylist()
    assert len(rows) == store.transitions
    index = 0
    for number, episode in enumerate(map(store.episode, order(store))):
        for t in range(len(episode) - 1):
            row = rows[index]
            picture = Image.open(io.BytesIO(row[IMAGE_KEY]["bytes"]))
            np.testing.assert_array_equal(np.asarray(picture), episode.image[t])
            np.testing.assert_array_equal(
                np.float32(row["observation.state"]), episode.proprioception[t]
            )
            # linear.x lies in [-1, 1] and angular.z in [0, 4].
            normalised = np.array(row["action"]) / [1.0, 2.0] - [0.0, 1.0]
            np.testing.assert_allclose(normalised, episode.action[t], atol=1e-6)
            assert row["next.reward"] == episode.reward[t]
            assert row["next.done"] == (t == len(episode) - 2)
            assert row["stamp_ns"] == episode.stamp_ns[t]
            assert row["timestamp"] == pytest.approx(t / 5.0)
            assert (row["frame_index"], row["episode_index"]) == (t, number)
            assert (row["index"], row["task_index"]) == (index, 0)
            index += 1


def test_lerobot_metadata(store: EpisodeStore, exported: Path) -> None:
    info = read_json(exported / "meta/info.json")
    assert info["codebase_version"] == "v3.0"
    assert (info["fps"], info["total_episodes"], info["total_frames"]) == (5, 5, store.transitions)
    training = len(store.split("training"))
    assert info["splits"] == {"train": f"0:{training}", "validation": f"{training}:5"}
    columns = pq.read_schema(exported / "data/chunk-000/file-000.parquet")
    assert columns.names == list(info["features"])
    assert columns.field("action").type == pa.list_(pa.float32(), 2)
    assert columns.field("next.done").type == pa.bool_()
    assert info["features"]["action"]["names"] == ["linear.x", "angular.z"]
    assert info["features"]["observation.state"]["shape"] == [3]
    assert info["features"][IMAGE_KEY]["shape"] == [24, 32, 3]
    tasks = pq.read_table(exported / "meta/tasks.parquet")
    assert tasks.to_pylist() == [{"task_index": 0, "task": store.task.description}]
    assert json.loads(tasks.schema.metadata[b"pandas"])["index_columns"] == ["task"]
    assert read_json(exported / "meta/fog.json")["data_hash"] == store.data_hash


def test_lerobot_episodes_follow_each_other(store: EpisodeStore, exported: Path) -> None:
    found = pq.read_table(exported / "meta/episodes/chunk-000/file-000.parquet").to_pylist()
    end = 0
    for number, (row, index) in enumerate(zip(found, order(store), strict=True)):
        assert row["episode_index"] == number
        assert row["dataset_from_index"] == end
        end += store.lengths[index] - 1
        assert (row["dataset_to_index"], row["length"]) == (end, store.lengths[index] - 1)
        entry = store.episodes[index]
        assert (row["source"], row["outcome"]) == (entry.source, entry.outcome)
        assert row["split"] == ("validation" if entry.held_out else "training")
        assert row["tasks"] == [store.task.description]
        mean = store.episode(index).proprioception[:-1].mean(axis=0)
        np.testing.assert_allclose(row["stats/observation.state/mean"], mean, atol=1e-6)


def test_lerobot_statistics(store: EpisodeStore, exported: Path) -> None:
    """Against NumPy on all pixels and all rows at once."""
    stats = read_json(exported / "meta/stats.json")
    episodes = [store.episode(i) for i in order(store)]
    pixels = np.concatenate([e.image[:-1] for e in episodes]).reshape(-1, 3) / 255.0
    states = np.concatenate([e.proprioception[:-1] for e in episodes]).astype(np.float64)
    for key, values, shape in (
        (IMAGE_KEY, pixels, (3, 1, 1)),
        ("observation.state", states, (3,)),
    ):
        for name in ("min", "max", "mean", "std"):
            expected = getattr(values, name)(axis=0).reshape(shape)
            np.testing.assert_allclose(stats[key][name], expected, atol=1e-9)
        assert stats[key]["count"] == [store.transitions]
    np.testing.assert_allclose(stats["observation.state"]["q90"], np.quantile(states, 0.9, axis=0))
    lower = np.quantile(pixels, 0.1, axis=0, method="inverted_cdf")
    np.testing.assert_allclose(np.ravel(stats[IMAGE_KEY]["q10"]), lower)


def test_lerobot_starts_another_file(
    store: EpisodeStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_export_lerobot, "FILE_MB", 0)
    monkeypatch.setattr(store_export_lerobot, "FILES_PER_CHUNK", 2)
    output = export_lerobot(store, tmp_path / "set")
    episodes = pq.read_table(output / "meta/episodes/chunk-000/file-000.parquet").to_pylist()
    places = [(e["data/chunk_index"], e["data/file_index"]) for e in episodes]
    assert places == [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0)]
    for number, (chunk, file) in enumerate(places):
        table = pq.read_table(output / f"data/chunk-{chunk:03d}/file-{file:03d}.parquet")
        assert set(table["episode_index"].to_pylist()) == {number}


@pytest.fixture(scope="module")
def videos(store: EpisodeStore, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_mp4(store, tmp_path_factory.mktemp("mp4") / "videos").folder


def test_videos_show_the_episodes(store: EpisodeStore, videos: Path) -> None:
    content = read_json(videos / "episodes.json")
    assert content["enlarged"] == 6  # 24 rows become 144
    for index, described in enumerate(content["episodes"]):
        episode = store.episode(index)
        path = videos / described["file"]
        images = read_video(path, content["enlarged"])
        assert images.shape == episode.image.shape
        assert psnr_db(images, episode.image) > 30
        # Nothing is shifted in time: every picture is most like the one of its own step.
        likeness = [[psnr_db(a, b) for b in episode.image] for a in images]
        assert np.argmax(likeness, axis=1).tolist() == list(range(len(episode)))
        assert described["psnr_db"] == pytest.approx(psnr_db(images, episode.image))
        assert described["stamp_ns"] == episode.stamp_ns.tolist()
        assert described["outcome"] == store.episodes[index].outcome
        capture = cv2.VideoCapture(str(path))
        assert capture.get(cv2.CAP_PROP_FPS) == 5.0
        capture.release()


def test_videos_are_of_a_codec_that_browsers_play(videos: Path) -> None:
    """The wheel that requirements/runtime.txt names encodes VP9."""
    assert read_json(videos / "episodes.json")["codec"] == "VP9"
    assert b"vp09" in (videos / "episode-000000.mp4").read_bytes()


def test_psnr_by_hand() -> None:
    """An error of 51 = 255 / 5 everywhere: 20 log10(5) dB."""
    black = np.zeros((2, 4, 4, 3), np.uint8)
    assert psnr_db(black, black + 51) == pytest.approx(20 * np.log10(5))
    assert psnr_db(black, black) == 100.0


def test_other_codecs_where_there_is_no_vp9(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known: set[str] = {"mp4v"}
    opened = store_export_mp4._open

    def only(path: Path, codec: str, size: tuple[int, int], rate: float) -> cv2.VideoWriter:
        return opened(path, codec, size, rate) if codec in known else cv2.VideoWriter()

    monkeypatch.setattr(store_export_mp4, "_open", only)
    assert store_export_mp4.find_codec(tmp_path, (64, 64), 5.0) == "mp4v"
    assert "mp4v" not in store_export_mp4.IN_BROWSERS
    known.clear()
    with pytest.raises(FogError, match=r"encodes none of VP9, H\.264"):
        store_export_mp4.find_codec(tmp_path, (64, 64), 5.0)
    assert not list(tmp_path.iterdir())


def test_a_video_that_lacks_frames(
    store: EpisodeStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = store_export_mp4.write_video

    def cut(path: Path, images: Any, *options: Any) -> None:
        written(path, images[:-2], *options)

    monkeypatch.setattr(store_export_mp4, "write_video", cut)
    with pytest.raises(FogError, match=r"episode-000000.mp4: has 7 frames .* 9 were written"):
        export_mp4(store, tmp_path / "videos")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("export", [export_lerobot, export_mp4])
def test_what_exists_is_left_alone(
    store: EpisodeStore, tmp_path: Path, export: Callable[[EpisodeStore, Path], object]
) -> None:
    with pytest.raises(FogError, match=r"--output .*: exists already"):
        export(store, tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(FogError, match=r"--output .*: cannot be written \(Not a directory\)"):
        export(store, tmp_path / "file" / "set")


@pytest.mark.parametrize("export", [export_lerobot, export_mp4])
def test_interrupted(store: EpisodeStore, tmp_path: Path, export: Callable[..., object]) -> None:
    def stop(description: str, done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export(store, tmp_path / "out", stop)
    assert not list(tmp_path.iterdir())


def test_command(store: EpisodeStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["data", "export", str(store.path), "--output", str(tmp_path / "set")]
    assert main([*arguments, "--format", "lerobot"]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'set'}\n"
    assert (tmp_path / "set/meta/info.json").exists()
    assert main(arguments) == 2
    assert "exists already" in capsys.readouterr().err
