import tests.compiled  # noqa: F401
