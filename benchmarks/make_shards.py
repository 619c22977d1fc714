"""Shards of generated clips, for a machine that has no videos or no ffmpeg.

    python -m benchmarks.make_shards --out DIR [--videos 96] [--frames 60] [--size 128x160]

Writes DIR/train-00000.tar and DIR/validation-00000.tar in the decode stage's format: textures that move, as JPEGs.
"""

import argparse
from pathlib import Path

from torchvision.io import encode_jpeg

from benchmarks.cases import moving_textures
from pipeline.clips.shards import ShardFile


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--videos", type=int, default=96, help="to train on; a quarter of them more for validation")
    parser.add_argument("--frames", type=int, default=60)
    parser.add_argument("--size", default="128x160", help="height x width in pixels")
    arguments = parser.parse_args()
    height, width = map(int, arguments.size.split("x"))
    write_shards(arguments.out, videos=arguments.videos, frames=arguments.frames, height=height, width=width)


def write_shards(out: Path, *, videos: int, frames: int, height: int, width: int) -> None:
    """videos: to train on; a quarter of them more for validation."""
    out.mkdir(parents=True, exist_ok=True)
    for split, count, group in (("train", videos, 8), ("validation", -(-videos // 4), 22)):
        shard = ShardFile(out / f"{split}-00000.tar")
        for number in range(count):
            texture = moving_textures(1, frames, height=height, width=width, seed=number)[0]
            jpegs = [encode_jpeg(frame, quality=95).numpy().tobytes() for frame in texture]
            shard.add(
                f"v_Texture_g{group:02}_c{number:02}",
                jpegs,
                map(len, jpegs),
                action="Texture",
                label=0,
                group=group,
                clip=number,
                fps=10,
                source_sha256=f"{split} {number}",
            )
        shard.close()


if __name__ == "__main__":
    main()
