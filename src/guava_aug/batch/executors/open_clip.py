"""The tracked videos of a job, opened, and what its views have in common."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from guava_aug.batch.config import DEFAULT_FPS, RunConfig
from guava_aug.batch.fingerprint import PLATE_WITHOUT, RenderSettings, fingerprint, input_digest, input_signature
from guava_aug.batch.jobs import VideoJob
from guava_aug.batch.pipeline import ClipVideos
from guava_aug.batch.results import ViewRecord
from guava_aug.output.metadata import compact_facts, tag_comment, time_axis
from guava_aug.output.sinks import ViewTarget
from guava_aug.runtime.frame_rate import rate_text
from guava_aug.tracked import TrackedVideo
from guava_aug.tracked.layout import find_video
from guava_aug.tracked.masks import in_words, ranges
from guava_aug.tracked.plausibility import refuse_impossible
from guava_aug.tracked.report import refuse_worse
from guava_aug.views.cameras import camera_facts

if TYPE_CHECKING:
    from guava_aug.avatar import Avatar
    from guava_aug.batch.avatars import FittedAvatar
    from guava_aug.render.background import Background
    from guava_aug.tracked import BodyOutline, Timing
    from guava_aug.views import View

log = logging.getLogger(__name__)


class OpenClip:
    """The videos of a job's three roles, and the metadata of its views.

    Raises:
        InputError: a video cannot be read, or its tracking is impossible.
    """

    def __init__(
        self,
        config: RunConfig,
        job: VideoJob,
        settings: RenderSettings,
        timings: Mapping[str, Timing],
        outline: BodyOutline | None,
    ) -> None:
        self._config, self._job, name = config, job, job.clip.motion
        signature = input_signature(config.tracked_root, name) or ""  # before it is read: it may be written to
        opened: dict[str, TrackedVideo] = {}
        for role in (name, job.clip.identity, job.clip.background):
            if role not in opened:
                opened[role] = TrackedVideo.open(
                    config.tracked_root, role, timing=timings.get(role), source_frame=config.source_frame
                )
                if config.min_tracking is not None:
                    refuse_worse(opened[role].path, config.min_tracking)
                refuse_impossible(opened[role], outline, accept=config.accept_tracking)
        self.videos = ClipVideos(opened[job.clip.identity], opened[name], opened[job.clip.background])
        self.motion = opened[name]
        digest = input_digest(self.motion)
        self.fps = config.fps or self.motion.fps or DEFAULT_FPS
        # another rate than the clip's own is another speed, which neither its times nor its sound go with
        own_time = config.fps is None or (self.motion.times is None and config.fps == self.motion.fps)
        self.times = self.motion.seconds if own_time else None
        self.sound = self.motion.sound if own_time and config.audio == "copy" else None
        if self.motion.sound is not None and not own_time:
            log.warning("%s: --fps is not the clip's own rate: its views have no sound", name)
        self.made_with = settings.made_with(self.fps, digest)
        for role, video in (("identity", self.videos.identity), ("background", self.videos.background)):
            if video is not self.motion:  # absent: that of the motion, as in every file of 0.1.0
                self.made_with[f"{role}_input"] = input_digest(video)
        said_fps = self.motion.fps
        if name in timings:  # which may override what the data say
            said_fps = find_video(config.tracked_root, name).fps
        self._input = signature, digest, None if said_fps is None else float(said_fps)
        self._facts: dict[str, dict[str, Any]] = {}  # label -> its cameras

    def use_avatar(self, fitted: FittedAvatar) -> Avatar | None:
        """Return the fitted avatar if it is to be used, and take its motion and cameras with it; before any view.

        A motion of another video than the avatar's stays as it was tracked.
        """
        self.made_with |= fitted.notes()
        if not fitted.used:
            return None
        videos = {}
        for role in ("identity", "motion"):
            video = getattr(self.videos, role)
            if video.name == fitted.name:
                videos[role] = replace(video, motion=fitted.motion, viewmats=fitted.viewmats)
        self.videos = replace(self.videos, **videos)
        self.motion = self.videos.motion
        return fitted.avatar

    def note_background(self, background: Background) -> None:
        """Note the background that the views are made with, before any of them is begun."""
        if background.left_out:
            self.made_with[PLATE_WITHOUT] = ranges(background.left_out)
            log.warning(
                "%s: the clean plate is made without %s: the mask is empty, suddenly small or far from the posed "
                "body", self._job.name, in_words(background.left_out, self.videos.background.frame_keys),
            )  # fmt: skip

    def target(self, view: View, size: int) -> ViewTarget:
        """Return location and metadata of the files of a view. size: pixels, of both sides."""
        video = self.motion
        filmed = self.videos.identity
        source_viewmat = filmed.viewmats[filmed.source_frame]
        cameras = view.cameras(source_viewmat, video.num_frames, size, K=filmed.lens_at(size))
        facts = self._facts[view.label] = camera_facts(cameras)
        print_ = fingerprint(view, self.made_with)
        beside = {
            "video": self._job.name, "view": view.label, **view.record(), "frames": video.num_frames,
            "width": size, "height": size,
            **time_axis(self.fps, video.source_frames, self.times),
            "fingerprint": print_, "made_with": self.made_with, **facts,
        }  # fmt: skip
        comment = tag_comment(view, print_, self.made_with)
        return ViewTarget(
            self._config.output, self._job.name, view.label, size, self.fps, video.num_frames, comment, beside,
            self.times, self.sound,
        )  # fmt: skip

    def record(self, view: View, size: int) -> ViewRecord:
        """Return the record of a view that is complete, but for what is known only then."""
        facts = self._facts.get(view.label)
        return ViewRecord(
            self._job.name, view.label, "success", view.record(),
            frames=self.motion.num_frames, fps=float(self.fps), frame_rate=rate_text(self.fps), size=(size, size),
            fingerprint=fingerprint(view, self.made_with), made_with=self.made_with, input=self._input,
            camera=None if facts is None else compact_facts(facts),
        )  # fmt: skip
