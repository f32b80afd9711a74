// A pixel of [batch, height, width] that moves on by a fixed number of pixels: it divides once and not at each step.
#pragma once

#include "common.cuh"

struct Walk {
    unsigned height, width;
    unsigned sample, y, x;
    unsigned samples, lines, columns; // of a step

    __device__ Walk(unsigned height, unsigned width, unsigned start, unsigned step) : height(height), width(width) {
        split(start, sample, y, x);
        split(step, samples, lines, columns);
    }

    __device__ void advance() {
        x += columns;
        y += lines;
        sample += samples;
        if (x >= width) {
            x -= width;
            ++y;
        }
        if (y >= height) {
            y -= height;
            ++sample;
        }
    }

private:
    __device__ void split(unsigned pixel, unsigned &sample, unsigned &y, unsigned &x) const {
        const unsigned line = pixel / width;
        x = pixel - line * width;
        sample = line / height;
        y = line - sample * height;
    }
};
