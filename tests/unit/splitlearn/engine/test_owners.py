from splitlearn.engine.owners import branches, by_branch


def test_an_owner_is_in_a_branch_for_each_beginning_of_its_names() -> None:
    assert list(branches(("web", "alice"))) == [("web",), ("web", "alice")]
    assert list(branches(())) == []


def test_amounts_are_added_at_every_level() -> None:
    sums = by_branch([(("web", "alice"), 2), (("web", "bob"), 3), (("lab", "alice"), 4)])
    assert sums == {("web",): 5, ("web", "alice"): 2, ("web", "bob"): 3, ("lab",): 4, ("lab", "alice"): 4}
