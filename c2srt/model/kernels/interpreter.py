"""Triton's interpreter on a NumPy that is newer than it. Only where kernels run on a CPU: compiled
ones never come here.
"""

from triton.runtime import interpreter


def mend_index() -> None:
    """Lets the interpreter count a loop: Triton 3.6 makes a scalar of a one-element array by `int`,
    which NumPy 2.5 refuses.

    Newer versions do what this does. Where the interpreter has another shape, nothing is changed.
    """
    original = getattr(interpreter, "_patch_lang_tensor", None)
    if original is None or getattr(original, "mended", False):
        return

    def patch_lang_tensor(tensor, scope):
        original(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    vars(patch_lang_tensor)["mended"] = True
    interpreter._patch_lang_tensor = patch_lang_tensor
