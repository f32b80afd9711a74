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

// ---- token_embedding ----

// Tables of the forward: the transposed weights with their sum as last row, and what all patches of a step share.
typedef struct TokenEmbeddingTables {
    float *pixels; // [inputs + 1, d]; null where inputs is 1
    float *steps;  // [B·T, d]: bias + position + wind
    const float *weight; // [d, inputs]
    const float *bias;
    const void *wind; // [B·T, d], or null
    const unsigned int *ages; // [B·T]
    unsigned int rows; // B·T
    unsigned int inputs; // 1 or P²
    unsigned int d;
} TokenEmbeddingTables;
SIZE(TokenEmbeddingTables, 64);

// y[r, t] = steps[b, t] + statics[r] + fire(r, t)
typedef struct TokenEmbeddingForward {
    void *y; // [B·N, T, d]
    const unsigned long long *frames; // [B, T, N, words]
    const float *weight; // [d], or of pixels: the table [P² + 1, d]
    const float *steps; // [B·T, d]
    const void *statics; // [B·N, d], or null
    unsigned int batch;
    unsigned int history;
    unsigned int patches;
    unsigned int words;
    unsigned int pixels; // of a patch, P²
    unsigned int d;
} TokenEmbeddingForward;
SIZE(TokenEmbeddingForward, 64);

// Gradient of the statics, and parts of the other gradients: one a group of patches, one a block.
typedef struct TokenEmbeddingBackward {
    const void *dy; // [B·N, T, d]
    const unsigned long long *frames; // [B, T, N, words]
    void *dstatics; // [B·N, d], or null
    float *step_sums; // [B, groups, T, d]
    float *weight_sums; // [blocks, d, inputs]
    unsigned int batch;
    unsigned int history;
    unsigned int patches;
    unsigned int words;
    unsigned int pixels; // of a patch, P²
    unsigned int inputs;
    unsigned int d;
} TokenEmbeddingBackward;
SIZE(TokenEmbeddingBackward, 72);

// to[m] = Σ from[m, row] over `rows` rows; m is the block's y.
typedef struct TokenEmbeddingSum {
    const float *from; // [M, rows, columns]
    float *to; // [M, columns]
    void *rounded; // the same as activations, or null
    unsigned int rows;
    unsigned int columns;
} TokenEmbeddingSum;
SIZE(TokenEmbeddingSum, 32);

// ---- attention ----

typedef struct AttentionSizes {
    unsigned int rows; // R = B·N
    unsigned int patches; // N
    unsigned int queries; // Tq
    unsigned int steps; // T
    unsigned int heads;
    unsigned int head_size;
    unsigned int lanes; // threads that share a head, each its slice: a power of two up to 16
    float scale; // 1 / √head size
} AttentionSizes;
SIZE(AttentionSizes, 32);

typedef struct AttentionForward {
    void *y; // [R, Tq, d]
    float *log_sums; // [R, Tq, heads]: log of the sum of exp(score)
    const void *q; // [R, Tq, d]
    const void *kv; // [R, T, 2d]
    const unsigned char *valid; // [B, T]
    AttentionSizes sizes;
    Dropout dropout;
} AttentionForward;
SIZE(AttentionForward, 104);

typedef struct AttentionBackward {
    void *dq; // [R, Tq, d]
    void *dkv; // [R, T, 2d]
    const void *dy; // [R, Tq, d]
    const float *log_sums; // [R, Tq, heads]
    const void *q;
    const void *kv;
    const unsigned char *valid;
    AttentionSizes sizes;
    Dropout dropout;
    unsigned int block_rows; // patches of a block
    unsigned int block_heads; // heads of a block
} AttentionBackward;
SIZE(AttentionBackward, 128);

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

// ---- adam ----

#endif
