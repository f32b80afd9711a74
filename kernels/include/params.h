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

// ---- up_conv ----

// ---- output_conv ----

// ---- loss ----

// What the losses read, in vectors of four neighboring pixels
typedef struct LossPixels {
    const float *logits;              // [batch, height, width]
    const unsigned long long *target; // [batch, patches, words] bits of burning pixels
    const unsigned long long *last;   // [batch, patches, words] those of the last frame
    const unsigned char *valid;       // [batch, patches]
    unsigned int vectors;             // height·width / 4
    unsigned int line;                // width / 4
    unsigned int patches;             // of a sample
    unsigned int cols;                // patches of a row
    unsigned int log_patch;           // 2, 3 or 4: patches have 4, 8 or 16 pixels a side
} LossPixels;
SIZE(LossPixels, 56);

// Sums of each block's pixels, and the histogram of the batch
typedef struct LossSums {
    LossPixels pixels;
    float *partials;               // [batch, blocks of a sample, 8]
    unsigned long long *histogram; // [burning in the last frame, burning in the target, 1025], zeros at first
    float threshold;               // a pixel is predicted burning where p is greater
    unsigned int focal;            // 1: focal and Tversky, 0: cross-entropy and Dice
    float gamma;                   // of the focal term
} LossSums;
SIZE(LossSums, 88);

// The loss from those sums, and what the gradient needs of them
typedef struct LossFinalize {
    const float *partials; // [batch, blocks, 8]
    double *samples;       // [batch, 9] scratch
    double *terms;         // [5] focal, Tversky, cross-entropy, Dice, loss
    float *factors;        // [batch, 4]
    unsigned int batch;
    unsigned int blocks;      // of a sample
    unsigned int focal;       // as in LossSums
    unsigned int auto_weight; // 1: pos_weight is that of the batch
    double point_weight;      // of focal or cross-entropy
    double region_weight;     // of Tversky or Dice
    double focal_alpha;
    double tversky_alpha;
    double tversky_beta;
    double pos_weight;
} LossFinalize;
SIZE(LossFinalize, 96);

// d loss / d logits
typedef struct LossGradient {
    LossPixels pixels;
    const float *factors; // [batch, 4]
    float *gradient;      // [batch, height, width]
    unsigned int focal;   // as in LossSums
    float gamma;
} LossGradient;
SIZE(LossGradient, 80);

// ---- adam ----

#endif
