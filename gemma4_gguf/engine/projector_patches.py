"""Projector patches: two numbers in which llama.cpp's Gemma 4 towers differ from the trained ones, put right.

- The vision tower was trained with the tanh form of GELU. Projector files do not say so (`clip.use_gelu`),
  and llama.cpp then computes the sigmoid approximation in every layer: cosine with transformers 0.99994
  instead of 0.9999998 after two layers.
- The conformer was trained on log(energy + 0.001); llama.cpp feeds it log(max(energy, 0.001)), which differs
  most in the quiet between words: 0.9995 instead of 0.9999996.

Both go through the callback that llama.cpp calls around every node of a graph (mtmd_context_params.cb_eval).
Nothing is assumed: the activation is changed only where ggml itself names the other one, the features only
where llama.cpp's own are found. Written for llama-cpp-python 0.3.36; a llama.cpp that does it right is left
alone.
"""

from __future__ import annotations

import ctypes
import logging
from typing import Any

import numpy as np

from gemma4_gguf.engine import library
from gemma4_gguf.media.mel import FLOOR, mel_energies

_log = logging.getLogger(__name__)

_GEGLU, _GEGLU_QUICK = 1, 5  # enum ggml_glu_op
_OP_PARAMS_OFFSET = 84  # of struct ggml_tensor: type, buffer, ne[4], nb[4], op come before
STEP = 32  # nodes computed at once, after which a graph can be stopped
_VIEWS = frozenset((b"NONE", b"VIEW", b"RESHAPE", b"PERMUTE", b"TRANSPOSE"))  # compute nothing
_SAME_FEATURES = 0.05  # mean distance below which two sets of log energies are the same


class GraphFixes:
    """Owns the callback. One projector has one, and uses it under its lock.

    Args:
        activation: change the activation of the vision tower.
    """

    def __init__(self, *, activation: bool) -> None:
        pointer, size = ctypes.c_void_p, ctypes.c_size_t
        self._describe = library._ggml("ggml_op_desc", ctypes.c_char_p, pointer)
        self._n_bytes = library._ggml("ggml_nbytes", size, pointer)
        self._get = library._ggml("ggml_backend_tensor_get", None, pointer, pointer, size, size)
        self._set = library._ggml("ggml_backend_tensor_set", None, pointer, pointer, size, size)
        self._activation = activation
        self._energies: np.ndarray | None = None
        self._interrupt: KeyboardInterrupt | None = None
        self._stopped = False
        self._n_asked = 0
        self.callback = library.llama().ggml_backend_sched_eval_callback(self._on_node)

    def expect_sound(self, samples: np.ndarray) -> None:
        """Announces that the next graph is the conformer's.

        Args:
            samples: the sound that it reads, float32 [n], 16 kHz mono.
        """
        self._energies = mel_energies(samples)

    def forget(self) -> None:
        """Ends what `expect_sound` began, whether or not a graph has run."""
        self._energies = None

    def stop(self) -> None:
        """Ends the graph that runs at its next node; its result is of no use."""
        self._stopped = True

    def begin(self) -> None:
        """Takes back an earlier `stop`."""
        self._stopped = False

    def raise_interrupt(self) -> None:
        """Raises the Ctrl-C that came while the callback ran: ctypes would have swallowed it."""
        interrupt, self._interrupt = self._interrupt, None
        if interrupt is not None:
            raise interrupt

    def _on_node(self, tensor: int, ask: bool, _data: Any) -> bool:
        """Called before a node (ask: is its result wanted?) and, if wanted, after it (go on?)."""
        if self._stopped:
            return ask  # wants the node, and then does not go on
        self._n_asked += ask
        try:
            return self.process_node(tensor, ask) or (ask and self._n_asked % STEP == 0)
        except KeyboardInterrupt as interrupt:
            self._interrupt = interrupt
            return not ask

    def process_node(self, tensor: int, ask: bool) -> bool:
        """Looks at one node of a graph, and changes its numbers where they are to be changed.

        Args:
            tensor: address of the node.
            ask: whether it is asked beforehand if the node is of interest; else it has been computed.

        Returns:
            Asked: whether the node is wanted. Else: whether to go on.
        """
        if ask:
            if self._energies is not None:
                # The first node that computes copies the input, whose views may lie on another device.
                return self._describe(tensor) not in _VIEWS
            if self._activation:
                self._use_tanh(tensor)
            return False
        energies, self._energies = self._energies, None
        if energies is not None:
            self._replace_features(tensor, energies)
        return True

    def _use_tanh(self, tensor: int) -> None:
        if self._describe(tensor) != b"GEGLU_QUICK":
            return
        kind = ctypes.c_int32.from_address(tensor + _OP_PARAMS_OFFSET)
        if kind.value != _GEGLU_QUICK:
            return
        kind.value = _GEGLU
        if self._describe(tensor) != b"GEGLU":
            kind.value = _GEGLU_QUICK

    def _replace_features(self, tensor: int, energies: np.ndarray) -> None:
        theirs = np.log(np.maximum(energies, FLOOR)).astype(np.float32)  # [n_frames, n_bands]
        if self._n_bytes(tensor) != theirs.nbytes:
            _log.warning("llama.cpp's sound features have an unknown size; they stay as they are")
            return
        found = np.empty_like(theirs)
        self._get(tensor, found.ctypes.data, 0, found.nbytes)
        right = np.log(energies + FLOOR).astype(np.float32)
        for transposed in (False, True):
            expected = np.ascontiguousarray(theirs.T).reshape(theirs.shape) if transposed else theirs
            if np.abs(found - expected).mean() < _SAME_FEATURES:
                wanted = np.ascontiguousarray(right.T if transposed else right)
                self._set(tensor, wanted.ctypes.data, 0, wanted.nbytes)
                return
        _log.warning("llama.cpp's sound features are unknown; they stay as they are")
