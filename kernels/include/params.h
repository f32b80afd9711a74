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

// ---- columns ----

// The columns of partials [blocks, columns] summed: those below split to first, the others to second
typedef struct ColumnSums {
    float *first;
    float *second;
    const float *partials;
    unsigned int blocks;
    unsigned int columns;
    unsigned int split;
} ColumnSums;
SIZE(ColumnSums, 40);

// ---- token_embedding ----

// ---- attention ----

// ---- linear ----

// y += bias in every row
typedef struct LinearBias {
    void *y; // [rows, outputs]
    const float *bias;
    unsigned long long rows;
    unsigned int outputs;
} LinearBias;
SIZE(LinearBias, 32);

// partials[block] = column sums of the block's rows of dy
typedef struct LinearBiasBackward {
    const void *dy;  // [rows, outputs]
    float *partials; // [blocks, outputs]
    unsigned long long rows;
    unsigned int outputs;
} LinearBiasBackward;
SIZE(LinearBiasBackward, 32);

// y = drop(gelu(product + bias))
typedef struct LinearGelu {
    void *y;             // [rows, outputs]
    const void *product; // [rows, outputs]
    const float *bias;   // null: none
    unsigned long long rows;
    unsigned int outputs;
    Dropout dropout;
} LinearGelu;
SIZE(LinearGelu, 64);

// dy becomes the gradient of product + bias, whose column sums are the partials
typedef struct LinearGeluBackward {
    void *dy;            // [rows, outputs]
    const void *product; // [rows, outputs]
    const float *bias;   // null: none
    float *partials;     // [blocks, outputs]; null: not wanted
    unsigned long long rows;
    unsigned int outputs;
    Dropout dropout;
} LinearGeluBackward;
SIZE(LinearGeluBackward, 72);

// ---- residual_norm ----

// y = layer_norm(x + drop(residual))·gamma + beta
typedef struct ResidualNormForward {
    void *y;              // [rows, width]
    const void *x;        // [rows, width]
    const void *residual; // [rows, width]
    const float *gamma; // [width]
    const float *beta;  // [width]
    unsigned long long rows;
    unsigned int width; // a multiple of 8
    unsigned int lanes; // threads a row, a power of two up to 32
    Dropout dropout;
} ResidualNormForward;
SIZE(ResidualNormForward, 88);

typedef struct ResidualNormBackward {
    void *dx;             // [rows, width]; dy before
    void *dresidual;      // [rows, width]; null: the same as dx
    const void *x;        // [rows, width]
    const void *residual; // [rows, width]
    const float *gamma;   // [width]
    float *partials;      // [blocks, 2·width]: gradients of gamma, then of beta
    unsigned long long rows;
    unsigned int width;
    unsigned int lanes;
    Dropout dropout;
} ResidualNormBackward;
SIZE(ResidualNormBackward, 96);

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

// part = rows and columns of whole
typedef struct SliceForward {
    void *part;        // [rows, columns]
    const void *whole; // [.., width]
    unsigned long long rows;
    unsigned long long first_row;
    unsigned int columns;
    unsigned int first_column;
    unsigned int width;
    unsigned int vectors; // 1: columns, first_column and width are multiples of a vector's elements
} SliceForward;
SIZE(SliceForward, 48);

// whole = part where it lies, zeros elsewhere
typedef struct SliceBackward {
    void *whole;      // [whole_rows, width]
    const void *part; // [rows, columns]
    unsigned long long whole_rows;
    unsigned long long rows;
    unsigned long long first_row;
    unsigned int columns;
    unsigned int first_column;
    unsigned int width;
    unsigned int vectors;
} SliceBackward;
SIZE(SliceBackward, 56);

// ---- refinement_input ----

// ---- pyramid ----

// ---- batch_norm ----

// ---- conv ----

// ---- up_conv ----

// ---- output_conv ----

// ---- loss ----

// ---- adam ----

// A stretch of a parameter with the factors of its update.
typedef struct AdamChunk {
    float *value;
    const float *gradient;
    float *first;
    float *second;
    unsigned long long len;
    float beta1;
    float beta2;
    float rest1; // 1 − beta1
    float rest2;
    float eps;
    float decay;
    float size;       // rate / (1 − beta1^step)
    float correction; // √(1 − beta2^step)
} AdamChunk;
SIZE(AdamChunk, 72);

typedef struct Adam {
    const AdamChunk *chunks; // one a block
} Adam;
SIZE(Adam, 8);

// ---- gradient_norm ----

// A stretch of a gradient.
typedef struct GradientChunk {
    const float *gradient;
    unsigned long long len;
} GradientChunk;
SIZE(GradientChunk, 16);

// partials[block] = sum of squares of the block's chunk
typedef struct GradientNorm {
    const GradientChunk *chunks; // one a block
    float *partials;
} GradientNorm;
SIZE(GradientNorm, 16);

#endif
