"""The names of what `stages.core.measures.take` measures, for those who only read it."""

METRICS = {
    "flicker": "flicker",
    "frozen": "frozen motion",
    "stutter": "stutter",
    "jerk": "uneven motion",
    "blur": "blur",
    "sharpness": "sharpness",
    "cuts": "unwanted cut",
    "colour_drift": "colour drift",
    "dynamic_degree": "too little or too much motion",
    "warp_error": "warp error",
    "blank": "blank frames",
}
"""Every metric, and what is wrong with a clip that does not meet its threshold.

flicker         mean absolute second difference of the brightness, as a share of it: `constancy.relative_flicker`
frozen          share of the frames that stand still for three and more in a row, in a clip that moves, 0-1
stutter         share of the frames that are the one before once more, between moving ones, 0-1
jerk            mean absolute second difference of the speed, as a share of the mean speed
blur            sigma of the blur of the sharpest edges, beyond that of pixels, in those of a picture of 512
sharpness       median variance of the Laplacian at 512 pixels, as in curation
cuts            transitions (cuts, fades, dissolves, wipes) that curation's detector finds
colour_drift    how far colours stray from those at the beginning, in CIE76 delta E
dynamic_degree  mean speed of the fastest twentieth of the picture, in diagonals a second
warp_error      mean difference of a frame and the one before, moved to it by optical flow, in grey levels
blank           share of frames in which there is nothing to see, 0-1
"""
