"""Detectron2's DefaultTrainer with the checks of this task."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetMapper, build_detection_test_loader, build_detection_train_loader
from detectron2.engine import DefaultTrainer, hooks
from detectron2.evaluation import COCOEvaluator
from detectron2.utils import comm
from detectron2.utils.events import EventWriter, TensorboardXWriter, get_event_storage

from downstream.detectron2_crowdai_detection_task.model import autocast_backbone, check_backbone
from vicreg.common import checkpoint_io
from vicreg.common.logger import GuardedTracker
from vicreg.data.image_io import ImageError, error_reason, open_image
from vicreg.data.images import needs_rasterio, open_reader

MAX_CHECKPOINTS = 3  # and the final one


class Mapper(DatasetMapper):
    """Detectron2's DatasetMapper whose errors name the image."""

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        """Return one image as the model's input.

        Raises:
            ImageError: The image cannot be decoded, has more than 8 bits, or another size than the annotations.
        """
        try:
            with open_image(dataset_dict["file_name"]) as image:
                if needs_rasterio(image):
                    open_reader(dataset_dict["file_name"]).close()  # refuses more than 8 bits
            return super().__call__(dataset_dict)
        except MemoryError:
            raise
        except Exception as error:  # every decoder has its own
            path = dataset_dict["file_name"]
            raise ImageError(f"{path} cannot be used: {error_reason(error, path)}") from error


class TrackerWriter(EventWriter):
    """Forward scalars, with the values and steps of ``metrics.json``, to a tracker.

    Args:
        tracker: Tracker of the run.
    """

    def __init__(self, tracker: GuardedTracker) -> None:
        self._track, self._last_step = tracker, -1

    def write(self) -> None:
        """Log the scalars that are new since the last call."""
        storage, steps = get_event_storage(), dict[int, dict[str, float]]()
        for name, (value, step) in storage.latest_with_smoothing_hint(20).items():
            if step > self._last_step:
                steps.setdefault(step, {})[name] = value
        for self._last_step in sorted(steps):
            self._track("log", steps[self._last_step], self._last_step)
        storage.clear_images()  # the last writer has to
        storage.clear_histograms()

    def close(self) -> None:
        """Finish the run."""
        self._track("close")


class Trainer(DefaultTrainer):
    """DefaultTrainer for CrowdAI: COCO metrics, a verified backbone, and checkpoints read with ``weights_only``.

    Args:
        cfg: Configuration of ``config.build_config``; its data sets are registered.
        bf16: Train the backbone under bfloat16 autocast. Evaluation stays in float32.
        tracker: Experiment tracker, a key of ``vicreg.common.trackers.TRACKERS``.
        options: Settings for the tracker that are not in ``cfg``.
    """

    def __init__(
        self, cfg: CfgNode, bf16: bool = False, tracker: str = "tensorboard", options: Mapping[str, Any] | None = None
    ) -> None:
        self._tracker, self._options = tracker, options or {}
        super().__init__(cfg)
        self.checkpointer._torch_load = checkpoint_io.load
        if bf16:
            autocast_backbone(getattr(self.model, "module", self.model), training_only=True)

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> Any:
        """Return Detectron2's training loader."""
        return build_detection_train_loader(cfg, mapper=Mapper(cfg, is_train=True))

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> Any:
        """Return Detectron2's test loader."""
        return build_detection_test_loader(cfg, dataset_name, mapper=Mapper(cfg, is_train=False))

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str) -> COCOEvaluator:
        """Return the evaluator of boxes and, with MODEL.MASK_ON, masks; pycocotools computes the metrics."""
        return COCOEvaluator(dataset_name, ("bbox", "segm") if cfg.MODEL.MASK_ON else ("bbox",), use_fast_impl=False)

    def build_hooks(self) -> list[Any]:
        """Return Detectron2's hooks, with a limit on the number of checkpoints."""
        built = super().build_hooks()
        for hook in built:
            if isinstance(hook, hooks.PeriodicCheckpointer):
                hook.max_to_keep = MAX_CHECKPOINTS
        return built

    def build_writers(self) -> list[EventWriter]:
        """Return Detectron2's writers, with that of another tracker in the place of its TensorBoard writer."""
        writers = super().build_writers()
        if self._tracker == "tensorboard":
            return writers
        tracker = GuardedTracker(self._tracker, Path(self.cfg.OUTPUT_DIR), 0, {**self._options, **self.cfg})
        return [writer for writer in writers if not isinstance(writer, TensorboardXWriter)] + [TrackerWriter(tracker)]

    def resume_or_load(self, resume: bool = True) -> None:
        """Resume from the last checkpoint, if there is one, or load the backbone and check that all of it was loaded.

        Raises:
            ValueError: A part of the backbone was not loaded, or the checkpoint is damaged.
        """
        super().resume_or_load(resume)
        if not (resume and self.checkpointer.has_checkpoint()):
            check_backbone(getattr(self.model, "module", self.model), self.cfg.MODEL.WEIGHTS)

    def train(self) -> dict[str, Any]:
        """Train and return the results of the last evaluation; empty on all processes but the first."""
        super().train()
        return self._last_eval_results if comm.is_main_process() else {}
