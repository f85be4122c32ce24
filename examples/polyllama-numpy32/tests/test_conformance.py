from polyllama.testing import ConformanceSuite


class TestConformance(ConformanceSuite):
    backend = "numpy32"
