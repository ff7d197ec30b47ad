"""Libraries that other libraries import and that we do not use: loaded when something of them is
used, and not before.

torchvision imports torch's compiler for one function that its ops ask when they are compiled
themselves, open_clip imports timm for the models that are timm's, and DeepSpeed imports MLflow for
its autotuner and has functions of its Muon compiled to see that our optimizer is another: seconds
in every process. Only what imports such a library uses this file: open_clip
(c2srt/backbone/library.py) and DeepSpeed (c2srt/train/engine.py).
"""

import gc
import importlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache, partial, wraps
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

COMPILER = "torch._dynamo"


class LazyModule(ModuleType):
    """A module of which some callables are known by name. Calling one loads the module, and so does
    any other name that is asked for.
    """

    def __init__(self, name: str, callables: Sequence[str]) -> None:
        super().__init__(name)
        self.__spec__ = ModuleSpec(name, None)  # `find_spec` asks it; transformers asks `find_spec`
        for one in callables:
            setattr(self, one, self._deferred(one))

    def __getattr__(self, name: str) -> Any:
        if name in ("__file__", "__path__"):  # `inspect` and `import` ask it of every module
            raise AttributeError(name)
        return getattr(self._loaded(), name)

    def _loaded(self) -> ModuleType:
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return importlib.import_module(self.__name__)

    def _deferred(self, name: str) -> Callable[..., Any]:
        def deferred(*arguments: Any, **named: Any) -> Any:
            return getattr(self._loaded(), name)(*arguments, **named)

        return deferred


@contextmanager
def lazily(modules: Mapping[str, Sequence[str]]) -> Iterator[None]:
    """Whatever is imported meanwhile gets a `LazyModule` for each of these (name: the callables
    that are taken from it), unless it is loaded already. Afterwards an import finds the module
    itself.
    """
    lazy = {
        name: LazyModule(name, callables)
        for name, callables in modules.items()
        if name not in sys.modules
    }
    sys.modules.update(lazy)
    try:
        yield
    finally:
        for name, module in lazy.items():
            if sys.modules.get(name) is module:
                del sys.modules[name]


@contextmanager
def uncollected() -> Iterator[None]:
    """What loads meanwhile stays: to look through it for garbage again and again takes a sixth of
    the time that large libraries need.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


@contextmanager
def compiler_when_needed() -> Iterator[None]:
    """Functions that are given to `torch.compile` meanwhile are compiled by their first call, and
    those that are kept out of compiled code do without the compiler while nothing else has loaded
    it: there is no compiled code then. To prepare for either loads it.
    """
    import torch

    def loaded() -> bool:
        return COMPILER in sys.modules

    places = (
        (torch, "compile", lambda: True),
        (torch.compiler, "disable", loaded),
        (torch, "_disable_dynamo", loaded),
    )
    own = [(vars(module), name, vars(module)[name]) for module, name, _ in places]
    for (names, name, decorator), (*_, needed) in zip(own, places, strict=True):
        names[name] = deferred(decorator, needed)
    try:
        yield
    finally:
        for names, name, decorator in own:
            names[name] = decorator


def deferred(decorator: Any, needed: Callable[[], bool]) -> Any:
    """The decorator, with or without options, whose work the first call that needs it does; until
    then the function is called as it is.
    """

    def decorate(function: Callable[..., Any] | None = None, *more: Any, **options: Any) -> Any:
        if function is None:
            return partial(decorate, **options)
        decorated = cache(partial(decorator, function, *more, **options))

        @wraps(function)
        def called(*given: Any, **named: Any) -> Any:
            return (decorated() if needed() else function)(*given, **named)

        return called

    return decorate


def without_compiler(method: Any) -> None:
    """Lets a method that torch keeps out of compiled code do without loading the compiler for
    that, while nothing else has: there is no compiled code then.
    """
    function = method.__wrapped__

    def called(*arguments: Any, **named: Any) -> Any:
        if COMPILER in sys.modules:
            del function.__dynamo_disable  # where torch looks first: it finds its own way again
            return method(*arguments, **named)
        return function(*arguments, **named)

    function.__dynamo_disable = called
