"""A polyllama backend in NumPy float32."""

from polyllama.extend import BackendDescriptor, hookimpl


@hookimpl
def polyllama_backends() -> list[BackendDescriptor]:
    return [BackendDescriptor("numpy32", "polyllama_numpy32.backend:NumPy32", "NumPy in float32", requires=("numpy",))]
