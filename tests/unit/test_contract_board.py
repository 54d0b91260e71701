"""Ranks and their supervisor agree on the step to stop at."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from trainkit.contract.board import Board, Row


def passes(board: Board, rank: int, count: int, *, patience: float = 0) -> bool | None:
    """What a rank does at a boundary."""
    board.tell(rank, Row(count))
    return board.beyond(count, patience=patience)


@pytest.fixture
def board(tmp_path: Path) -> Board:
    return Board.create(tmp_path, 3)


def test_nobody_stops_before_it_is_asked_to(board: Board) -> None:
    assert [passes(board, rank, count) for rank in range(3) for count in (1, 2, 3)] == [None] * 9


def test_all_stop_after_the_highest_boundary_that_one_of_them_has_passed(board: Board) -> None:
    passes(board, 0, 5)
    passes(board, 1, 6)  # inside step 6, in a collective that rank 0 has yet to join
    assert board.ask() == 6
    board.agree(6)
    assert passes(board, 0, 6) is False
    assert passes(board, 0, 7) is True
    assert passes(board, 1, 7) is True
    assert passes(board, 2, 1) is False


def test_a_rank_waits_at_its_boundary_until_there_is_agreement(board: Board) -> None:
    board.ask()
    answers: list[bool | None] = []
    waiting = threading.Thread(target=lambda: answers.append(passes(board, 2, 9, patience=60)))
    waiting.start()
    assert answers == []
    board.agree(9)
    waiting.join(60)
    assert answers == [False]


def test_without_agreement_a_rank_is_on_its_own_after_a_while(board: Board) -> None:
    board.ask()
    assert passes(board, 0, 1, patience=0.01) is True


def test_a_rank_finds_the_board_that_its_supervisor_made_and_none_elsewhere(tmp_path: Path, board: Board) -> None:
    found = Board.find(str(tmp_path))
    assert found is not None
    passes(found, 1, 4)
    assert board.ask() == 4
    assert Board.find(str(tmp_path / "no")) is None
    assert Board.find(None) is None


def test_no_rank_passes_the_agreed_boundary_whenever_the_question_comes(tmp_path: Path) -> None:
    """Ranks run freely while the question comes at some moment; afterwards all have stopped at the same count."""
    for attempt in range(30):
        board = Board.create(tmp_path, 4)
        stopped_at = [0] * 4

        def run(rank: int, board: Board = board, stopped_at: list[int] = stopped_at) -> None:
            count = 1
            while not passes(board, rank, count, patience=60):
                count += 1
            stopped_at[rank] = count

        ranks = [threading.Thread(target=run, args=(rank,)) for rank in range(4)]
        for thread in ranks:
            thread.start()
        for _ in range(attempt * 50):
            pass
        board.agree(board.ask())
        for thread in ranks:
            thread.join(60)
        assert len(set(stopped_at)) == 1, stopped_at
        assert stopped_at[0] > 0
        board.close()


def test_the_supervisor_reads_which_step_each_rank_is_in(board: Board) -> None:
    board.tell(1, Row(passed=3, step=1202, waited=5, looping=1))
    board.tell(2, Row(passed=4, step=7, looping=0))
    assert board.rows() == [Row(), Row(3, 1202, 5, 1), Row(4, 7)]
    assert [row.known_step for row in board.rows()] == [None, 1202, 7]
