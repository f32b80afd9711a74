// Parameters of every kernel: plain C structs, one a kernel, passed by value. `bindgen` makes the Rust side of this file.
//
// Pointers are device addresses. `void *` points at activations, whose type (float or bf16) is that of the kernel's name;
// typed pointers are what they say whatever the activations are. Sizes are in elements. SIZE repeats a struct's size so that
// nvcc, the host compiler and bindgen must all agree with it.
#ifndef EMBERFORMER_PARAMS_H
#define EMBERFORMER_PARAMS_H

#ifdef __cplusplus
#define SIZE(Struct, bytes) static_assert(sizeof(Struct) == bytes, "the size of " #Struct)
#else
#define SIZE(Struct, bytes) _Static_assert(sizeof(Struct) == bytes, "the size of " #Struct)
#endif

// ---- shared parts ----

// One dropout layer of one step. Element e is dropped where its 16 random bits are below `threshold`.
typedef struct Dropout {
    unsigned int threshold; // probability·65536, rounded; 0: nothing is dropped
    float scale;            // 1 / (1 − threshold / 65536)
    unsigned int site;
    unsigned int step[2]; // low and high word
    unsigned int seed[2];
} Dropout;
SIZE(Dropout, 28);

// A map [batch, height + 2·halo, width + 2·halo, stride], of which the first `channels` are values and the rest zeros.
typedef struct Map {
    unsigned int batch;
    unsigned int height;
    unsigned int width;
    unsigned int channels;
    unsigned int stride;
    unsigned int halo;
} Map;
SIZE(Map, 24);

// ---- elementwise ----

// to[i] += from[i]
typedef struct Add {
    void *to;
    const void *from;
    unsigned long long len;
} Add;
SIZE(Add, 24);

// values[i] *= factor
typedef struct Scale {
    void *values;
    unsigned long long len;
    float factor;
} Scale;
SIZE(Scale, 24);

// to[i] = from[i], float to the type of the kernel's name
typedef struct Cast {
    void *to;
    const float *from;
    unsigned long long len;
} Cast;
SIZE(Cast, 24);

// ---- the emulated device's own checks ----

typedef struct Check {
    float *out;
    const float *in;
    const void *halves; // bf16
    unsigned long long len;
} Check;
SIZE(Check, 32);

// ---- token_embedding ----

// ---- attention ----

// ---- linear ----

// ---- residual_norm ----

// ---- dropout ----

// to[i] = from[i]·mask[i]; both may be the same memory
typedef struct DropoutApply {
    void *to;
    const void *from;
    unsigned long long len; // a multiple of 8
    Dropout dropout;
} DropoutApply;
SIZE(DropoutApply, 56);

// ---- slice ----

// ---- refinement_input ----

// ---- pyramid ----

// ---- batch_norm ----

// ---- conv ----

// Where the windows of a convolution lie in a map. Window (b, r, c) belongs to stored pixel (r, c) of sample b of the grid
// that the kernel walks over. Line l of it begins at element
//   origin + b·batch_step + r·row_step + c·column_step + (l / halves)·line_step + (l mod halves)·channels
// and its taps follow each other at column_step, the first at first_column·column_step.
typedef struct ConvWindows {
    const void *values;
    long long origin;
    long long batch_step;
    long long row_step;
    long long column_step;
    long long line_step;
    unsigned int channels; // stored ones
    unsigned int lines;
    unsigned int halves; // 1 or 2
    int first_column;
} ConvWindows;
SIZE(ConvWindows, 64);

// output = windows · panel for every pixel of the grid; zeros on the output's border
typedef struct ConvGemm {
    ConvWindows windows;
    const void *panel; // see ConvPack
    void *output;      // [batch, scale·(height − 2) + 2, scale·(width − 2) + 2, channels]
    unsigned int batch;
    unsigned int height; // of the grid, its border included
    unsigned int width;
    unsigned int channels; // stored ones of the output
    unsigned int scale;    // output pixels of a grid pixel along each axis
} ConvGemm;
SIZE(ConvGemm, 104);

// panel [phases, tiles, lines, chunks, taps, 32 bytes of input channels, `tile` output channels] from weight; zeros where the
// channels end
typedef struct ConvPack {
    void *panel;
    const float *weight;
    unsigned long long len; // elements of the panel
    unsigned int inputs;    // channels of the weight
    unsigned int outputs;
    unsigned int tiles;
    unsigned int tile;
    unsigned int chunks;
    unsigned int backward; // 1: for the input's gradient
} ConvPack;
SIZE(ConvPack, 48);

// partials[split] = sum over the split's pixels of windowsᵀ · centers
typedef struct ConvWeightGradient {
    ConvWindows windows;
    const void *centers; // [batch, height, width, center_channels], zero border
    float *partials;     // [splits, lines, taps, windows.channels, center_channels]
    unsigned int batch;
    unsigned int height; // of the grid, its border included
    unsigned int width;
    unsigned int center_channels;
    unsigned int split; // pixels of a split
} ConvWeightGradient;
SIZE(ConvWeightGradient, 104);

// gradient = sum of the partials over the splits, in the weight's layout
typedef struct ConvWeightSum {
    float *gradient;
    const float *partials;
    unsigned int splits;
    unsigned int inputs; // channels of the weight
    unsigned int outputs;
    unsigned int window_channels; // stored ones, as in the partials
    unsigned int center_channels;
} ConvWeightSum;
SIZE(ConvWeightSum, 40);

// ---- up_conv ----

// The kernels of up_conv take the parameters of conv.

// ---- output_conv ----

// ---- loss ----

// ---- adam ----

#endif
