"""The families of Atlas's theorems by name: each makes one instance of a given level from a random stream."""

from __future__ import annotations

import random
from collections.abc import Callable

from tasks.data.regions.theorems import arithmetic, induction, lists, logic, order
from tasks.data.regions.theorems.instance import Instance
from tasks.data.regions.theorems.source import Theorems

Make = Callable[[Theorems, random.Random, int], Instance]
FAMILIES: dict[str, Make] = {
    make.__name__: make
    for make in (
        arithmetic.numerals,
        arithmetic.witness,
        arithmetic.sum_order,
        arithmetic.product_order,
        order.order_chain,
        order.monotone,
        order.int_monotone,
        order.divides_chain,
        order.divides_sum,
        order.int_divides,
        logic.implications,
        logic.conjunctions,
        logic.disjunctions,
        logic.rewrite_chain,
        logic.iff_chain,
        logic.transported,
        lists.membership,
        lists.list_length,
        lists.list_measure,
        lists.list_append,
        induction.reach,
        induction.recurrence,
        induction.growth,
        induction.powers,
    )
}
