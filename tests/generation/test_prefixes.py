"""Which prefix lies where, against a pool of lists: every prompt ends up whole, and no run is read that was there."""

import random

import pytest

from vishwamai.generation.prefixes import PlannedPrefill, Prefixes, group_by_length


class Lists:
    """A pool whose rows are lists of tokens, and what was read into it."""

    def __init__(self, rows):
        self.rows, self.read = [[] for _ in range(rows)], 0

    def carry_out(self, jobs):
        """A call: it reads of the rows what they held before it."""
        before = [list(row) for row in self.rows]
        assert len({job.dst for job in jobs}) == len(jobs)
        for job in jobs:
            assert len(before[job.src]) >= job.n_cached
            self.rows[job.dst] = before[job.src][: job.n_cached] + list(job.tokens)
            self.read += len(job.tokens)


def ask(prefixes, lists, prompts):
    """Has the prompts read, checks that they lie where they are said to, and returns how many tokens that took."""
    before = lists.read
    for jobs in prefixes.assign_slots(prompts):
        lists.carry_out(jobs)
    for prompt in prompts:
        assert lists.rows[prefixes.slot(prompt)] == [token for run in prompt for token in run]
    assert len({prefixes.slot(prompt) for prompt in prompts}) == len(set(prompts))
    return lists.read - before


def trie_size(prompts):
    """The tokens in a trie whose edges are runs, built node by node."""
    root, size = {}, 0
    for prompt in prompts:
        node = root
        for run in prompt:
            if run not in node:
                node[run] = {}
                size += len(run)
            node = node[run]
    return size


def prompts_of(rng, n):
    """Random prompts of one to five runs, of few different ones, so that many begin alike."""
    runs = [(1,), (2, 3), (1, 2, 3), (4, 4, 4, 4)]
    return [tuple(rng.choice(runs) for _ in range(rng.randint(1, 5))) for _ in range(n)]


@pytest.mark.parametrize("seed", range(5))
def test_each_prefix_is_read_once(seed):
    prefixes, lists = Prefixes(2000), Lists(2000)
    prompts = prompts_of(random.Random(seed), 60)
    assert ask(prefixes, lists, prompts) == trie_size(prompts)
    assert ask(prefixes, lists, prompts[::-1]) == 0
    more = prompts_of(random.Random(seed + 100), 30)
    assert ask(prefixes, lists, more) == trie_size(prompts + more) - trie_size(prompts)
    assert len(prefixes) == len({p[:n] for p in prompts + more for n in range(1, len(p) + 1)})


@pytest.mark.parametrize("rows", [2, 3, 9, 16])
def test_few_rows_hold_what_is_needed(rows):
    rng, prefixes, lists = random.Random(rows), Prefixes(rows), Lists(rows)
    for _ in range(200):
        prompts = prompts_of(rng, rng.randint(1, rows // 2))
        assert ask(prefixes, lists, prompts) <= trie_size(prompts)
        assert len(prefixes) <= rows
        assert ask(prefixes, lists, prompts) == 0


def test_the_same_tokens_in_other_runs_are_another_prompt():
    prefixes, lists = Prefixes(8), Lists(8)
    assert ask(prefixes, lists, [((1, 2), (3,)), ((1,), (2, 3)), ((1, 2, 3),)]) == 9


def test_what_was_not_used_for_longest_is_given_up():
    prefixes, lists = Prefixes(4), Lists(4)
    a, b, c, d, e = [((i,),) for i in range(5)]
    for prompt in (a, b, c, d, a):
        ask(prefixes, lists, [prompt])
    ask(prefixes, lists, [e])  # in place of b
    assert [ask(prefixes, lists, [prompt]) for prompt in (a, c, d, e)] == [0, 0, 0, 0]
    assert ask(prefixes, lists, [b]) == 1


def test_a_prompt_that_is_there_needs_none_of_its_parents():
    prefixes, lists = Prefixes(3), Lists(3)
    ask(prefixes, lists, [((1,), (2,), (3,))])
    ask(prefixes, lists, [((9,),)])  # in place of the oldest, ((1,),)
    assert ask(prefixes, lists, [((1,), (2,), (3,))]) == 0
    assert ask(prefixes, lists, [((1,),)]) == 1


def test_a_round_has_one_depth():
    rounds = list(Prefixes(8).assign_slots([((1,), (2,)), ((1,), (3,)), ((4,),)]))
    assert [[(job.n_cached, job.tokens) for job in jobs] for jobs in rounds] == [
        [(0, (1,)), (0, (4,))],
        [(1, (2,)), (1, (3,))],
    ]
    assert list(Prefixes(2).assign_slots([])) == []


def test_jobs_go_by_the_length_to_which_they_are_filled_up():
    jobs = [PlannedPrefill(0, i, 0, (7,) * n) for i, n in enumerate((1, 4, 5, 2))]
    found = group_by_length(jobs, lambda n: 4 if n <= 4 else 16)
    assert found == {4: [(0, jobs[0]), (1, jobs[1]), (3, jobs[3])], 16: [(2, jobs[2])]}
