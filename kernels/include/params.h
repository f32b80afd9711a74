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
    const unsigned int *step; // low and high word, in device memory: a captured step is replayed with others; unread if 0 below
    unsigned int threshold;   // probability·65536, rounded; 0: nothing is dropped
    float scale;              // 1 / (1 − threshold / 65536)
    unsigned int site;
    unsigned int seed[2];
    unsigned int unused;
} Dropout;
SIZE(Dropout, 32);

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

// ---- self_attention ----

// Width 64, bf16.
typedef struct SelfAttention {
    const void *x; // [R, T, 64]
    const float *in_weight; // [192, 64]: queries, keys, values
    const float *in_bias; // [192]
    const float *out_weight; // [64, 64]
    const float *out_bias; // [64]
    const float *gamma; // [64]
    const float *beta; // [64]
    const unsigned char *valid; // [B, T]
    unsigned int rows; // R = B·N
    unsigned int patches; // N
    unsigned int steps; // T, at most 32
    unsigned int reciprocal; // ⌊2^16 / T⌋ + 1
    unsigned int tile_patches; // ⌊32 / T⌋
    unsigned int heads;
    float scale; // 1 / √head size
    unsigned int unused;
    Dropout probabilities;
    Dropout residual;
} SelfAttention;
SIZE(SelfAttention, 160);

typedef struct SelfAttentionForward {
    void *y; // [R, Tq, 64], Tq = T or 1
    SelfAttention layer;
} SelfAttentionForward;
SIZE(SelfAttentionForward, 168);

typedef struct SelfAttentionBackward {
    void *dx; // [R, T, 64]
    const void *dy; // [R, Tq, 64]
    float *partials; // [blocks, 16768]: gradients of in_weight, in_bias, out_weight, out_bias, gamma, beta
    SelfAttention layer;
} SelfAttentionBackward;
SIZE(SelfAttentionBackward, 184);

// The partials summed over the blocks.
typedef struct SelfAttentionSums {
    float *in_weight;
    float *in_bias;
    float *out_weight;
    float *out_bias;
    float *gamma;
    float *beta;
    const float *partials;
    unsigned int blocks;
} SelfAttentionSums;
SIZE(SelfAttentionSums, 64);

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
SIZE(LinearGelu, 72);

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
SIZE(LinearGeluBackward, 80);

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

// ---- feed_forward ----

// to = w1, then w2, rounded to bf16
typedef struct FeedForwardPack {
    void *to;
    const float *w1;
    const float *w2;
    unsigned int len; // of each, a multiple of 8
} FeedForwardPack;
SIZE(FeedForwardPack, 32);

// y = layer_norm(x + drop(drop(gelu(x·w1ᵀ + b1))·w2ᵀ + b2))·gamma + beta
typedef struct FeedForward {
    void *y;          // [rows, 64]
    void *normalized; // [rows, 64]: y before gamma and beta; null: not wanted, nor is rstd
    float *rstd;      // [rows, rounded up to a multiple of 16]
    const void *x;    // [rows, 64]
    const void *weights; // w1 [hidden, 64], then w2 [64, hidden]
    const float *b1;
    const float *b2;
    const float *gamma;
    const float *beta;
    unsigned long long rows;
    unsigned int hidden; // a multiple of 64
    Dropout inner;       // of [rows, hidden]
    Dropout outer;       // of [rows, 64]
} FeedForward;
SIZE(FeedForward, 152);

// dx, and the block's sums of the other gradients: of w1, w2, b1, b2, gamma and beta in this order
typedef struct FeedForwardBackward {
    void *dx; // [rows, 64]; may be dy
    const void *dy;
    const void *x;
    const void *normalized;
    const float *rstd;
    const void *weights;
    const float *b1;
    const float *gamma;
    float *partials; // [blocks, 129·hidden + 192]
    unsigned long long rows;
    unsigned int hidden;
    Dropout inner;
    Dropout outer;
} FeedForwardBackward;
SIZE(FeedForwardBackward, 152);

// The partials summed over blocks
typedef struct FeedForwardSum {
    float *dw1; // [hidden, 64]
    float *dw2; // [64, hidden]
    float *db1;
    float *db2;
    float *dgamma;
    float *dbeta;
    const float *partials;
    unsigned int blocks;
    unsigned int hidden;
} FeedForwardSum;
SIZE(FeedForwardSum, 64);

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

// y [rows, stride]: a [rows, m], beside it b [rows, n], then zeros
typedef struct ConcatForward {
    void *y;
    const void *a;
    const void *b;
    unsigned int rows;
    unsigned int m; // a multiple of 8
    unsigned int n;
    unsigned int stride;
} ConcatForward;
SIZE(ConcatForward, 40);

// The parts of dy [rows, stride]
typedef struct ConcatBackward {
    const void *dy;
    void *da;
    void *db;
    unsigned int rows;
    unsigned int m; // a multiple of 8
    unsigned int n;
    unsigned int stride;
} ConcatBackward;
SIZE(ConcatBackward, 40);

// y: the map; x [batch·height·width, stride]
typedef struct ToMapForward {
    void *y;
    const void *x;
    Map map;
} ToMapForward;
SIZE(ToMapForward, 40);

// dy: the map; dx [batch·height·width, stride]
typedef struct ToMapBackward {
    const void *dy;
    void *dx;
    Map map;
} ToMapBackward;
SIZE(ToMapBackward, 40);

// ---- pyramid ----

// y [batch, height / factor, width / factor, stride] of the grid x
typedef struct AveragePoolForward {
    void *y;
    const void *x;
    Map map; // of x, without border
    unsigned int factor;
} AveragePoolForward;
SIZE(AveragePoolForward, 48);

typedef struct AveragePoolBackward {
    const void *dy;
    void *dx;
    Map map; // of x, without border
    unsigned int factor;
} AveragePoolBackward;
SIZE(AveragePoolBackward, 48);

// A grid [batch, height, width, stride]
typedef struct ResizeLevel {
    const void *x;
    unsigned int height;
    unsigned int width;
} ResizeLevel;
SIZE(ResizeLevel, 16);

// y: the sum of the first `count` levels, each resized
typedef struct ResizeSumForward {
    void *y;
    ResizeLevel levels[4];
    Map map; // of y, without border
    unsigned int count;
} ResizeSumForward;
SIZE(ResizeSumForward, 104);

// dx [batch, height, width, stride]: the gradient of one level
typedef struct ResizeSumBackward {
    const void *dy;
    void *dx;
    Map map; // of dy, without border
    unsigned int height;
    unsigned int width;
} ResizeSumBackward;
SIZE(ResizeSumBackward, 48);

// ---- batch_norm ----

// partials: see BatchNormAffine; the pixels of block i are those from i·span on
typedef struct BatchNormMoments {
    const void *x;
    float *partials;
    Map map;
    unsigned int span;
} BatchNormMoments;
SIZE(BatchNormMoments, 48);

// affine [4, stride]: mean, 1 / √(var + ε), γ, β. The statistics are those of the partials, and the running ones move
// towards them; without partials they are the running ones.
// partials [2·stride + 1, blocks]: means and sums of squared deviations of each block's pixels, last their number.
typedef struct BatchNormAffine {
    float *affine;
    const float *partials;
    float *running_mean;
    float *running_var;
    const float *gamma;
    const float *beta;
    unsigned int channels;
    unsigned int stride;
    unsigned int blocks;
} BatchNormAffine;
SIZE(BatchNormAffine, 64);

// y: like the map, its pixels of y_stride channels; the mask, where there is one, comes after the map's channels
typedef struct BatchNormForward {
    void *y;
    const void *x;
    const float *affine;
    const unsigned long long *mask;
    Map map;
    unsigned int y_stride;
    unsigned int patch; // of the mask
    unsigned int span;
} BatchNormForward;
SIZE(BatchNormForward, 72);

// partials [2, channels, blocks]: what the pixels of block i, from i·span on, add to dγ and dβ
typedef struct BatchNormSums {
    const void *dy;
    const void *x;
    const float *affine;
    float *partials;
    Map map;
    unsigned int span;
} BatchNormSums;
SIZE(BatchNormSums, 64);

typedef struct BatchNormParameters {
    const float *partials;
    float *dgamma;
    float *dbeta;
    unsigned int channels;
    unsigned int blocks;
} BatchNormParameters;
SIZE(BatchNormParameters, 32);

// dy becomes dx
typedef struct BatchNormBackward {
    void *dy;
    const void *x;
    const float *affine;
    const float *dgamma;
    const float *dbeta;
    Map map;
    unsigned int span;
    float share; // 1 / pixels; 0 where the statistics are constants
} BatchNormBackward;
SIZE(BatchNormBackward, 72);

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

// Batch norm + ReLU that a map of `stride` stored channels passes as it is read, and the mask that is appended to it
typedef struct ConvNorm {
    const float *affine;            // [4, stride], as in BatchNormAffine
    const unsigned long long *mask; // bits of patches, or null; it is the channel after the map's own
    unsigned int channels;          // the map's own
    unsigned int stride;
    unsigned int patch; // of the mask
} ConvNorm;
SIZE(ConvNorm, 32);

// Sums over the output's pixels that a product makes on its way out, as partials of its blocks
typedef struct ConvSums {
    float *partials;     // null: none. Without x: the output's moments, as in BatchNormAffine.
    const void *x;       // the output is the gradient at a batch norm + ReLU of x: it passes the ReLU's mask, and the sums
    const float *affine; // are those for dγ and dβ, as in BatchNormSums
    unsigned int channels;
} ConvSums;
SIZE(ConvSums, 32);

// output = windows · panel for every pixel of the grid; zeros on the output's border
typedef struct ConvGemm {
    ConvWindows windows;
    ConvNorm norm; // of the windows, in kernels named after it
    ConvSums sums;
    const void *panel; // see ConvPack
    void *output;      // [batch, scale·(height − 2) + 2, scale·(width − 2) + 2, channels]
    unsigned int batch;
    unsigned int height; // of the grid, its border included
    unsigned int width;
    unsigned int channels; // stored ones of the output
    unsigned int scale;    // output pixels of a grid pixel along each axis
} ConvGemm;
SIZE(ConvGemm, 168);

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
    ConvNorm norm; // of the windows (conv) or the centers (up_conv), in kernels named after it
    const void *centers; // [batch, height, width, center_channels], zero border
    float *partials;     // [splits, lines, taps, windows.channels, center_channels]
    unsigned int batch;
    unsigned int height; // of the grid, its border included
    unsigned int width;
    unsigned int center_channels;
    unsigned int split; // pixels of a split
} ConvWeightGradient;
SIZE(ConvWeightGradient, 136);

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

// A raw map with what its batch norm, the convolution and the mask do to it
typedef struct OutputConvInput {
    const void *x;
    const float *affine;            // [4, stride]: mean, 1 / √(var + ε), γ, β
    const float *weight;            // of the map's channels, then of the mask
    const unsigned long long *mask; // or null
    Map map;
    unsigned int log_patch; // of the mask: 2, 3 or 4
} OutputConvInput;
SIZE(OutputConvInput, 64);

// y [batch, height, width]
typedef struct OutputConvForward {
    OutputConvInput input;
    float *y;
    const float *bias;
    unsigned int span; // pixels of a block
} OutputConvForward;
SIZE(OutputConvForward, 88);

// partials [2·channels + 2, blocks]: sums over a block's pixels of g·(x − mean), of g, of dy, of dy·mask, where g is dy where
// the ReLU is open
typedef struct OutputConvSums {
    OutputConvInput input;
    const float *dy;
    float *partials;
} OutputConvSums;
SIZE(OutputConvSums, 80);

typedef struct OutputConvParameters {
    OutputConvInput input;
    const float *partials;
    float *dgamma;
    float *dbeta;
    float *dweight;
    float *dbias;
    unsigned int blocks;
} OutputConvParameters;
SIZE(OutputConvParameters, 112);

// dx: a map like x
typedef struct OutputConvBackward {
    OutputConvInput input;
    void *dx;
    const float *dy;
    const float *dgamma;
    const float *dbeta;
    unsigned int span; // pixels of a block
    float share;       // 1 / pixels; 0 where the statistics are constants
} OutputConvBackward;
SIZE(OutputConvBackward, 104);

// ---- loss ----

#define LOSS_SLOTS 1025 // bins of p, that of the threshold split in two
#define LOSS_TERMS 5    // focal, Tversky, cross-entropy, Dice, loss
// What is summed over pixels beside p: cross-entropy, focal of any γ > 0, focal of γ = 2
#define LOSS_CROSS_ENTROPY 0
#define LOSS_FOCAL 1
#define LOSS_FOCAL_SQUARE 2

// What the losses read, in vectors of four neighbouring pixels
typedef struct LossPixels {
    const float *logits;         // [batch, height, width]
    const unsigned char *target; // [batch, patches, bytes of words] bits of burning pixels
    const unsigned char *last;   // [batch, patches, bytes of words] those of the last frame
    const unsigned char *valid;  // [batch, patches]
    unsigned int vectors;        // height·width / 4
    unsigned int line;           // width / 4
    unsigned int patches;        // of a sample
    unsigned int cols;           // patches of a row
    unsigned int log_patch;      // 2, 3 or 4: patches have 4, 8 or 16 pixels a side
} LossPixels;
SIZE(LossPixels, 56);

// What a batch gave
typedef struct LossOutput {
    unsigned long long histogram[4 * LOSS_SLOTS]; // [burning in the last frame, burning in the target, slots]
    double terms[LOSS_TERMS];
} LossOutput;
SIZE(LossOutput, 32840);

// What batches gave together: histograms, and terms times samples
typedef struct LossTotals {
    LossOutput sums;
    unsigned long long samples;
    unsigned long long batches;
    unsigned long long first_bad; // number, from 1, of the first batch whose loss was not finite, or 0
} LossTotals;
SIZE(LossTotals, 32864);

// Sums of each block's pixels, and the histogram of the batch
typedef struct LossSums {
    LossPixels pixels;
    float *partials;               // [batch, blocks of a sample, 8]
    unsigned long long *histogram; // as in LossOutput, zeros at first
    float threshold;               // a pixel is predicted burning where p is greater
    unsigned int kind;             // one of those three
    float gamma;                   // of the focal term
    unsigned int rounds;           // of a block: 2048 pixels each
} LossSums;
SIZE(LossSums, 88);

// The loss from those sums, and what the gradient needs of them; the histogram moves on to `last` and `totals`
typedef struct LossFinalize {
    const float *partials; // [batch, blocks, 8]
    double *samples;       // [batch, 8] scratch
    unsigned long long *histogram;
    LossOutput *last;
    LossTotals *totals;
    float *factors; // [batch, 4]
    unsigned int batch;
    unsigned int blocks;      // of a sample
    unsigned int focal;       // 1: focal and Tversky, 0: cross-entropy and Dice
    unsigned int auto_weight; // 1: pos_weight is that of the batch
    double point_weight;      // of focal or cross-entropy
    double region_weight;     // of Tversky or Dice
    double focal_alpha;
    double tversky_alpha;
    double tversky_beta;
    double pos_weight;
} LossFinalize;
SIZE(LossFinalize, 112);

// d loss / d logits
typedef struct LossGradient {
    LossPixels pixels;
    const float *factors; // [batch, 4]
    float *gradient;      // [batch, height, width]
    unsigned int kind;    // as in LossSums
    float gamma;
} LossGradient;
SIZE(LossGradient, 80);

// ---- adam ----

// The factors of an update, the same for a group of parameters.
typedef struct AdamFactors {
    float beta1;
    float beta2;
    float rest1; // 1 − beta1
    float rest2;
    float eps;
    float decay;
    float size;          // rate / (1 − beta1^step)
    float correction;    // √(1 − beta2^step)
    unsigned int frozen; // 1: the group stays as it is
} AdamFactors;
SIZE(AdamFactors, 36);

// A stretch of a parameter.
typedef struct AdamChunk {
    float *value;
    const float *gradient;
    float *first;
    float *second;
    unsigned long long len;
    unsigned long long group;
} AdamChunk;
SIZE(AdamChunk, 48);

typedef struct Adam {
    const AdamChunk *chunks;           // one a block
    const AdamFactors *factors;        // by group
    const struct GradientState *state; // null: gradients are taken as they are
} Adam;
SIZE(Adam, 24);

// ---- gradient_norm ----

// What an update has to know of the gradients, and what becomes of a run whose numbers are no longer finite.
typedef struct GradientState {
    double norm;
    unsigned long long bad; // the number, from 1, of the first batch with a norm that is not finite; 0: none
    float factor;           // what gradients are multiplied with
    unsigned int stopped;   // 1: nothing is updated any more
} GradientState;
SIZE(GradientState, 24);

// A stretch of a gradient.
typedef struct GradientChunk {
    const float *gradient;
    unsigned long long len;
    unsigned long long group;
} GradientChunk;
SIZE(GradientChunk, 24);

// partials[block] = sum of squares of the block's chunk; 0 where its group is frozen
typedef struct GradientNorm {
    const GradientChunk *chunks; // one a block
    const AdamFactors *factors;  // by group; null: none is frozen
    float *partials;
} GradientNorm;
SIZE(GradientNorm, 24);

// The norm from the partials, and the factor that brings it under the limit
typedef struct GradientClip {
    GradientState *state;
    const float *partials;
    const unsigned long long *batches; // so many batches were counted, the last one's gradients are these
    const unsigned long long *bad;     // not 0: a batch had a loss that is not finite
    double limit;                      // 0: none
    unsigned long long len;            // of the partials
} GradientClip;
SIZE(GradientClip, 48);

// ---- gather ----

// A sample by its rows in the tables of the data set.
typedef struct GatherSample {
    unsigned int frame;     // of the history's first frame; the others follow
    unsigned int isochrone; // of the target
    unsigned int wind;      // of the history's first frame, turned; the others follow
    unsigned int statics;
    unsigned int aspects;  // turned
    unsigned int history;  // frames
    unsigned int symmetry; // 1 where mirrored, then 2 where turned by a half, 4 by a quarter
} GatherSample;
SIZE(GatherSample, 28);

// The data set, or what a batch needs of it.
typedef struct GatherSet {
    const unsigned long long *frames;     // [.., N, words]
    const unsigned long long *isochrones; // [.., N, words]
    const float *wind;                    // [.., 2]
    const float *statics;                 // [.., N, channels]
    const float *aspects;                 // [.., N, aspect_bands]
    const int *aspect_of;                 // [channels]: which of the aspects a band is; negative: none
    const unsigned char *valid_patches;   // [N]
} GatherSet;
SIZE(GatherSet, 56);

typedef struct Gather {
    GatherSet set;
    const GatherSample *samples; // [batch]
    unsigned long long *frames;  // [batch, history, N, words]
    unsigned long long *last;    // [batch, N, words]
    unsigned long long *target;  // [batch, N, words]
    void *wind;                  // [batch·history, 2]
    void *statics;               // [batch·N, channels]
    unsigned char *valid_steps;  // [batch, history]
    unsigned int *ages;          // [batch, history]
    unsigned char *valid_patches; // [batch, N]
    unsigned int batch;
    unsigned int history;
    unsigned int rows; // of the patch grid
    unsigned int cols;
    unsigned int patch; // 4, 8 or 16
    unsigned int channels;
    unsigned int aspect_bands;
} Gather;
SIZE(Gather, 160);

#endif
