"""Everything that rigging expects of a generator; pytest shows each rule as a test."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from rigging import GenerateParams
from rigging.error import ProviderTimeoutError
from rigging.testing import Fault, GeneratorContract

from mymodel_rigging import MymodelGenerator


class TestMymodelGenerator(GeneratorContract):
    # A model that your tests can ask. What it cannot do is switched off here, such as
    # `supports_texts = False` or `deterministic = False`.
    identifier = "mymodel!some-model"
    unsupported_params = frozenset(
        # All that the class does not name: it must warn of them.
        GenerateParams.model_fields.keys() - MymodelGenerator.honoured - {"extra"}
    )

    @pytest.fixture
    def faults(self) -> Sequence[Fault]:
        # Add the others: a model that does not exist, a prompt that is too long, a wrong key.
        too_slow = GenerateParams(max_tokens=100_000, timeout=0.2)
        return [Fault(error=ProviderTimeoutError, name="out of time", params=too_slow)]
