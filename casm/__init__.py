__version__ = "0.1.0"
__all__ = ["SparseMemoryFinetuner", "SparseMemoryFinetuningArgs"]


def __getattr__(name):
    "What is asked for is imported when it is asked for: `import casm` needs no torch"
    if name not in __all__: raise AttributeError(f"module 'casm' has no attribute {name!r}")
    from . import finetuner
    return getattr(finetuner, name)
