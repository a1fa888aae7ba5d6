"""Progress on disk: one small file a stage, whole at every moment, whoever of its processes writes it."""

import json
import multiprocessing

from tasks.runtime.progress import FOLDER, Progress


def test_processes_of_one_stage_write_one_file_and_never_trip_over_each_other(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def work() -> None:
        for _ in range(200):
            Progress("toy", 1, "steps").advance()

    context = multiprocessing.get_context("fork")
    running = [context.Process(target=work) for _ in range(4)]
    for process in running:
        process.start()
    for process in running:
        process.join()
    assert [process.exitcode for process in running] == [0] * 4
    assert json.loads((FOLDER / "toy.json").read_text())["done"] == 1
    assert list(FOLDER.iterdir()) == [FOLDER / "toy.json"]
