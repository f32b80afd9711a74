"""Cuts fires_64_mini out of a data set in the Deep Crown layout: python make_fires_64_mini.py SOURCE
Takes the landscape's smallest region that holds six windows, and those windows' sequences and weather, georeference
kept. Needs numpy and tifffile."""
import csv, json, shutil, sys
from pathlib import Path
import numpy as np, tifffile

source, out = Path(sys.argv[1]), Path(__file__).parent / "fires_64_mini"
windows = json.loads((source / "landscape/indices.json").read_text())
names = [row[0] for row in csv.reader(open(source / "landscape/WeatherHistory.csv"))]


def inside(top, left, side):
    return [k for k, (y0, y1, x0, x1) in windows.items() if y0 >= top and x0 >= left and y1 <= top + side and x1 <= left + side]


def search():
    for side in range(64, 943, 16):
        best = max(((len(inside(t, l, side)), t, l) for t in range(0, 942 - side, 8) for l in range(0, 942 - side, 8)), default=(0,))
        if best[0] >= 6:
            return best[1], best[2], side


top, left, side = search()
chosen = sorted(inside(top, left, side), key=int)[:6]
shutil.rmtree(out, ignore_errors=True)
(out / "landscape/Weathers").mkdir(parents=True)
shifted = {k: [windows[k][0] - top, windows[k][1] - top, windows[k][2] - left, windows[k][3] - left] for k in chosen}
(out / "landscape/indices.json").write_text(json.dumps(shifted))
shutil.copy(source / "landscape/WeatherHistory.csv", out / "landscape/WeatherHistory.csv")
for k in chosen:
    name = names[int(k) - 1].split("Weathers/")[1]
    shutil.copy(source / "landscape/Weathers" / name, out / "landscape/Weathers" / name)
    for part in ("fire_frames", "isochrones"):
        shutil.copytree(source / part / f"sequence_{int(k):03}", out / part / f"sequence_{int(k):03}")

with tifffile.TiffFile(source / "landscape/Input_Geotiff.tif") as tiff:
    tags = {code: tiff.pages[0].tags[code].value for code in (33550, 33922, 34735, 34737, 42112, 42113)}
    bands = tiff.asarray()[:, top : top + side, left : left + side]
scale, tie = tags[33550], list(tags[33922])
tie[3] += left * scale[0]
tie[4] -= top * scale[1]
extra = [(33550, "d", 3, scale, True), (33922, "d", 6, tie, True), (34735, "H", len(tags[34735]), tags[34735], True)]
extra += [(code, "s", 0, tags[code], True) for code in (34737, 42112, 42113)]
tifffile.imwrite(out / "landscape/Input_Geotiff.tif", np.ascontiguousarray(bands), photometric="minisblack", planarconfig="separate",
                 compression="zlib", compressionargs={"level": 9}, rowsperstrip=16, metadata=None, software=False, extratags=extra)
print(chosen, top, left, side)
