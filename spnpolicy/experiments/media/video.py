"""Videos in H.264, as browsers play them; needs PyAV (`pip install spnpolicy[video]`)."""

import os
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

import numpy as np

from circuits.files import replacing
from spnpolicy.base.errors import ConfigError
from spnpolicy.experiments.media.animation import Shot

FRAMES_PER_SECOND = 20
"""Every time that a picture of an animation is shown for is a whole number of these frames."""
_BT709 = 1
_LIMITED_RANGE = 1
_QUALITY = {"crf": "18", "preset": "medium", "tune": "animation"}


def check_video_support() -> ModuleType:
    """Return PyAV, or refuse with a ConfigError that says how to install it."""
    try:
        import av
    except ImportError as problem:
        raise ConfigError(f"a video needs PyAV ({problem}): pip install 'spnpolicy[video]'.") from None
    return av


def write_video(shots: Iterable[Shot], path: Path) -> None:
    """Write an MP4 file, complete or not at all, as `write_gif` does.

    Raises:
        ConfigError: PyAV is not installed.
        OSError: the disk refuses.
    """
    check_video_support()
    with replacing(path) as temporary:
        _encode(shots, temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())


def _encode(shots: Iterable[Shot], path: Path) -> None:
    av = check_video_support()
    # The index goes to the start of the file: a browser then plays before it has loaded everything.
    with av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"}) as container:
        stream = container.add_stream("libx264", rate=FRAMES_PER_SECOND, options=_QUALITY)
        context = stream.codec_context
        context.pix_fmt = "yuv420p"
        # Without these marks players guess how colours are stored, and guess differently.
        context.color_range, context.colorspace = _LIMITED_RANGE, _BT709
        context.color_primaries, context.color_trc = _BT709, _BT709
        for number, shot in enumerate(shots):
            # yuv420p keeps one colour per two by two pixels, so it has no odd sides.
            height, width = shot.picture.shape[:2]
            picture = np.pad(shot.picture, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
            if number == 0:
                context.height, context.width = picture.shape[:2]
            frame = av.VideoFrame.from_ndarray(picture, "rgb24").reformat(format="yuv420p", dst_colorspace="ITU709")
            for _ in range(round(shot.milliseconds * FRAMES_PER_SECOND / 1_000)):
                frame.pts = None
                container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
