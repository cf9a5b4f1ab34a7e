"""What a run leaves behind: videos and pictures, and where they are."""

from guava_aug.output.contact_sheet import contact_sheet as contact_sheet
from guava_aug.output.pngs import PngWriter as PngWriter
from guava_aug.output.quantize import to_png_bytes as to_png_bytes
from guava_aug.output.quantize import to_video_bytes as to_video_bytes
from guava_aug.output.settings import OutputSettings as OutputSettings
from guava_aug.output.tree import params_log_path as params_log_path
from guava_aug.output.tree import png_dir as png_dir
from guava_aug.output.tree import video_path as video_path
from guava_aug.output.tree import view_dir as view_dir
from guava_aug.output.video import VideoWriter as VideoWriter
from guava_aug.output.video import verify_video as verify_video
