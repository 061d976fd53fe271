/*
 * Fused CUDA kernels for cross-entropy with label smoothing, its gradient, log-softmax and binary cross-entropy,
 * on device memory of the caller's own. capi/README.md has examples and the rules.
 *
 * Generated from capi/src; do not edit. `cargo xtask codegen` writes it anew.
 *
 * Every function that can fail returns an `sx_status` and writes why, NUL-terminated and cut to fit, to
 * `message`, which has `message_bytes` bytes and may be null; after a success it is empty. Options are filled
 * by their `_init` functions and then changed field by field; other structs may begin as all zero.
 */

#ifndef SMOOTHXENT_H
#define SMOOTHXENT_H

#include <stddef.h>
#include <stdint.h>

/** What `sx_version` returns. */
#define SX_VERSION "0.1.0"

/**
 * The kernels, loaded in the primary context of a device: the one that the CUDA runtime, and so PyTorch,
 * uses. A handle is of `sx_kernels_load` or `sx_kernels_select`, and may be used by several threads at once.
 */
typedef struct sx_kernels sx_kernels;

/**
 * What came of a call: `SX_OK`, or one of `SX_NULL_POINTER` to `SX_PANIC`.
 */
typedef int32_t sx_status;

/**
 * A `CUstream` or `cudaStream_t`, which are the same; null for the legacy default stream.
 */
typedef void *sx_stream;

/**
 * `SX_SMOOTH_BY_HALF` or `SX_SMOOTH_BY_CLASSES`: how a binary target q is smoothed.
 */
typedef uint32_t sx_binary_smoothing;

/**
 * 0 for no, anything else for yes.
 */
typedef uint32_t sx_flag;

/**
 * `SX_MEAN_OF_CLASSES` or `SX_SUM_OF_CLASSES`: how the losses of a row's classes become the loss of the row.
 */
typedef uint32_t sx_over_classes;

/**
 * `SX_NONE`, `SX_SUM` or `SX_MEAN`: how the losses of the rows become one number.
 */
typedef uint32_t sx_reduction;

/**
 * `SX_TARGET_WEIGHTS`, `SX_COUNTED_ROWS`, `SX_ALL_ROWS` or `SX_GIVEN`: what a mean divides by.
 */
typedef uint32_t sx_divisor_kind;

/**
 * What a mean divides one term of the loss by.
 */
typedef struct sx_divisor {
  /**
   * Which kind.
   */
  sx_divisor_kind kind;
  /**
   * For `SX_GIVEN`: more than 0.
   */
  double number;
} sx_divisor;

/**
 * `SX_EMPTY_IS_NAN` or `SX_EMPTY_IS_ZERO`: what a mean is that would divide by 0.
 */
typedef uint32_t sx_empty_mean;

/**
 * What a binary cross-entropy is, apart from sizes; filled by `sx_binary_config_init`. With targets t that were
 * smoothed as `sx_binary_smoothing` says, class weights w, positive weights r and C classes, the loss of a row is
 *
 * ```text
 * -1/C sum_k w_k (r_k t_k log sigmoid(x_k) + (1 - t_k) log sigmoid(-x_k)) / D
 * ```
 *
 * where 1/C is 1 for `SX_SUM_OF_CLASSES`, and D is 1 unless `reduction` is `SX_MEAN`.
 */
typedef struct sx_binary_config {
  /**
   * e, within 0 to 1.
   */
  double label_smoothing;
  /**
   * How it moves a target.
   */
  sx_binary_smoothing smoothing;
  /**
   * Whether there is an `ignore_index`.
   */
  sx_flag has_ignore_index;
  /**
   * Rows with this class index have loss 0 and gradient 0.
   */
  int64_t ignore_index;
  /**
   * How the classes of a row are reduced: 1/C, or 1.
   */
  sx_over_classes over_classes;
  /**
   * How row losses are reduced.
   */
  sx_reduction reduction;
  /**
   * D; `SX_TARGET_WEIGHTS` is the same as `SX_COUNTED_ROWS` here.
   */
  struct sx_divisor divisor;
  /**
   * What a mean is that would divide by 0.
   */
  sx_empty_mean empty_mean;
} sx_binary_config;

/**
 * `SX_F32`, `SX_F16` or `SX_BF16`: element type of a matrix.
 */
typedef uint32_t sx_dtype;

/**
 * Type of targets: `SX_TARGET_I32`, `SX_TARGET_U32` or `SX_TARGET_I64` for class indices, `SX_TARGET_F32`,
 * `SX_TARGET_F16` or `SX_TARGET_BF16` for probabilities of all classes.
 */
typedef uint32_t sx_target_type;

/**
 * Sizes of the matrices, in elements. Strides are from the start of one row to the start of the next, at
 * least `classes`; 0 stands for `classes`.
 */
typedef struct sx_shape {
  /**
   * Rows: samples, or tokens.
   */
  size_t rows;
  /**
   * Classes, or the size of the vocabulary.
   */
  size_t classes;
  /**
   * Of the logits.
   */
  size_t logits_row_stride;
  /**
   * Of the gradient.
   */
  size_t gradient_row_stride;
  /**
   * Of target probabilities.
   */
  size_t targets_row_stride;
} sx_shape;

/**
 * An address in device memory, as the driver's `CUdeviceptr`; 0 for what is not there. From a pointer of the
 * runtime: `(sx_device_ptr)(uintptr_t)pointer`.
 */
typedef uint64_t sx_device_ptr;

/**
 * Inputs of a binary cross-entropy. Zero-initialise it, then set what you need.
 */
typedef struct sx_binary_inputs {
  /**
   * Of logits and gradient.
   */
  sx_dtype dtype;
  /**
   * Of the targets.
   */
  sx_target_type target_type;
  /**
   * Sizes and strides.
   */
  struct sx_shape shape;
  /**
   * Whether the gradient takes the place of the logits, as in `sx_loss_inputs`.
   */
  sx_flag in_place;
  /**
   * `[rows, classes]`; not looked at in place.
   */
  sx_device_ptr logits;
  /**
   * `[rows, classes]` targets within 0 to 1, or `[rows]` class indices of the one class that is 1.
   */
  sx_device_ptr targets;
  /**
   * `[classes]` f32, finite and not negative; 0 for none.
   */
  sx_device_ptr class_weights;
  /**
   * The same, for positive targets: r.
   */
  sx_device_ptr positive_weights;
} sx_binary_inputs;

/**
 * What a binary cross-entropy is asked for beside its gradient; 0 for what is not wanted.
 */
typedef struct sx_binary_outputs {
  /**
   * One f32: the reduced loss, not multiplied by the upstream gradient; NaN if any target names no class. Not
   * with `SX_NONE`.
   */
  sx_device_ptr loss;
  /**
   * `[rows]` f32: each row's loss over its classes; 0 for ignored rows, NaN for targets that name no
   * class.
   */
  sx_device_ptr row_losses;
} sx_binary_outputs;

/**
 * Device memory of the caller's own, for the library's use.
 */
typedef struct sx_memory {
  /**
   * A multiple of 32; 0 for none.
   */
  sx_device_ptr address;
  /**
   * From there on.
   */
  size_t bytes;
} sx_memory;

/**
 * Where the gradient with respect to the logits goes, and what flows into it.
 */
typedef struct sx_gradient {
  /**
   * `[rows, classes]` in the dtype of the logits, with a row stride; in place, it holds the logits before.
   */
  sx_device_ptr matrix;
  /**
   * The gradient of everything later with respect to the loss, f32: one number, or one a row. 0 means an
   * upstream gradient of 1.
   */
  sx_device_ptr upstream;
  /**
   * Whether `upstream` has one number a row.
   */
  sx_flag upstream_per_row;
} sx_gradient;

/**
 * `SX_FORWARD`, `SX_BACKWARD` or `SX_FORWARD_BACKWARD`: what a call computes, for its plan.
 */
typedef uint32_t sx_pass;

/**
 * `SX_ALL_CLASSES` or `SX_OTHER_CLASSES`: over which classes smoothing spreads.
 */
typedef uint32_t sx_smoothing;

/**
 * `SX_NLL_AND_SMOOTHING`, `SX_NLL_ALONE` or `SX_SMOOTHING_ALONE`: what class weights multiply, where they are
 * given.
 */
typedef uint32_t sx_weighted_terms;

/**
 * What a cross-entropy is, apart from sizes; filled by `sx_loss_config_init`. With transformed logits
 * z = s tanh(t x / s), or t x without a cap, p = softmax(z), lse = log sum_k exp(z_k), target y, class weights w,
 * smoothing e and C classes, the loss of a row is
 *
 * ```text
 * a w_y (-log p_y) / D1 + b sum_k w_k (-log p_k) / D2 + L lse^2 / D3
 * ```
 *
 * and for target probabilities q
 *
 * ```text
 * sum_k (a w_k q_k + b w_k) (-log p_k) / D1 + L lse^2 / D3
 * ```
 *
 * where a and b are
 *
 * ```text
 * SX_ALL_CLASSES:    a = 1 - e,      b = e/C
 * SX_OTHER_CLASSES:  a = 1 - e - b,  b = e/(C - 1 - excluded_classes)
 * ```
 *
 * The term with a is the nll term, the term with b is smoothing. w is 1 in a term that `weighted_terms` leaves
 * out. Each D is 1 unless `reduction` is `SX_MEAN`.
 */
typedef struct sx_loss_config {
  /**
   * e, within 0 to 1.
   */
  double label_smoothing;
  /**
   * Over which classes it spreads.
   */
  sx_smoothing smoothing;
  /**
   * For `SX_OTHER_CLASSES`: how many classes beside the target get no smoothing. Class weights say which: 0 for
   * those, 1 for all others, with `SX_SMOOTHING_ALONE`. Nobody compares the weights with this number.
   */
  size_t excluded_classes;
  /**
   * What class weights multiply.
   */
  sx_weighted_terms weighted_terms;
  /**
   * Whether there is an `ignore_index`.
   */
  sx_flag has_ignore_index;
  /**
   * Rows with this target have loss 0, gradient 0 and no part in a mean over counted rows or target weights;
   * any value, compared as an int64_t: of uint32_t targets none is negative.
   */
  int64_t ignore_index;
  /**
   * How row losses are reduced.
   */
  sx_reduction reduction;
  /**
   * D1. For target probabilities it divides nll and smoothing, and `SX_TARGET_WEIGHTS` is the number of rows.
   */
  struct sx_divisor nll_divisor;
  /**
   * D2; not used for target probabilities.
   */
  struct sx_divisor smoothing_divisor;
  /**
   * D3.
   */
  struct sx_divisor z_loss_divisor;
  /**
   * What a mean is that would divide by 0.
   */
  sx_empty_mean empty_mean;
  /**
   * L; 0 for none.
   */
  double z_loss;
  /**
   * t, more than 0.
   */
  double logit_scale;
  /**
   * s, more than 0; 0 for no cap.
   */
  double logit_softcap;
} sx_loss_config;

/**
 * `SX_FASTEST`, `SX_PINNED` or `SX_PREFERRED`: who chooses how rows are given to threads.
 */
typedef uint32_t sx_selection;

/**
 * Targets that named no class.
 */
typedef struct sx_bad_targets {
  /**
   * How many rows since the last time the status was taken.
   */
  uint64_t count;
  /**
   * The lowest such row, counted within its call. Of several calls, nothing says which one that was.
   */
  uint64_t row;
  /**
   * Its target.
   */
  int64_t target;
  /**
   * Classes of its problem.
   */
  uint64_t classes;
} sx_bad_targets;

/**
 * Sizes of the matrices of a log-softmax, in elements. Strides are from the start of one row to the start of the
 * next, at least `classes`; 0 stands for `classes`.
 */
typedef struct sx_log_softmax_shape {
  /**
   * Rows.
   */
  size_t rows;
  /**
   * Classes.
   */
  size_t classes;
  /**
   * Of the logits.
   */
  size_t logits_row_stride;
  /**
   * Of log-probabilities, or probabilities.
   */
  size_t output_row_stride;
  /**
   * Of the upstream gradient.
   */
  size_t upstream_row_stride;
  /**
   * Of the gradient.
   */
  size_t gradient_row_stride;
} sx_log_softmax_shape;

/**
 * `SX_LOG_PROBABILITIES`, `SX_PROBABILITIES` or `SX_LOGITS`: what a matrix of a log-softmax call holds.
 */
typedef uint32_t sx_softmax;

/**
 * What `sx_log_softmax_forward` reads and writes. Zero-initialise it, then set what you need.
 */
typedef struct sx_log_softmax {
  /**
   * Of all matrices.
   */
  sx_dtype dtype;
  /**
   * Sizes and strides.
   */
  struct sx_log_softmax_shape shape;
  /**
   * `[rows, classes]`.
   */
  sx_device_ptr logits;
  /**
   * What to write: `SX_LOG_PROBABILITIES` or `SX_PROBABILITIES`.
   */
  sx_softmax what;
  /**
   * `[rows, classes]`: where.
   */
  sx_device_ptr output;
  /**
   * `[rows]` f32: each row's log-sum-exp; 0 if not wanted.
   */
  sx_device_ptr row_lse;
  /**
   * What a gradient from the logits needs: `sx_saved_bytes`; all 0 if not wanted.
   */
  struct sx_memory saved;
} sx_log_softmax;

/**
 * What `sx_log_softmax_backward` reads and writes. Zero-initialise it, then set what you need.
 */
typedef struct sx_log_softmax_gradient {
  /**
   * Of all matrices.
   */
  sx_dtype dtype;
  /**
   * Sizes and strides; that of the logits or of the output is the one of `values`.
   */
  struct sx_log_softmax_shape shape;
  /**
   * What `values` are: `SX_LOG_PROBABILITIES` or `SX_LOGITS`.
   */
  sx_softmax what;
  /**
   * `[rows, classes]`.
   */
  sx_device_ptr values;
  /**
   * For `SX_LOGITS`: what `sx_log_softmax_forward` saved of them.
   */
  struct sx_memory saved;
  /**
   * `[rows, classes]`: the gradient with respect to the log-probabilities.
   */
  sx_device_ptr upstream;
  /**
   * `[rows, classes]`: where the gradient with respect to the logits goes.
   */
  sx_device_ptr gradient;
} sx_log_softmax_gradient;

/**
 * Inputs of a cross-entropy. Zero-initialise it, then set what you need.
 */
typedef struct sx_loss_inputs {
  /**
   * Of logits and gradient.
   */
  sx_dtype dtype;
  /**
   * Of the targets.
   */
  sx_target_type target_type;
  /**
   * Sizes and strides.
   */
  struct sx_shape shape;
  /**
   * Whether the gradient takes the place of the logits: they are at `sx_gradient.matrix` then, and the two
   * strides are the same.
   */
  sx_flag in_place;
  /**
   * `[rows, classes]`; not looked at in place.
   */
  sx_device_ptr logits;
  /**
   * `[rows]` class indices, or `[rows, classes]` probabilities.
   */
  sx_device_ptr targets;
  /**
   * `[classes]` f32, finite and not negative; 0 for none.
   */
  sx_device_ptr class_weights;
} sx_loss_inputs;

/**
 * What a cross-entropy is asked for beside its gradient; 0 for what is not wanted.
 */
typedef struct sx_loss_outputs {
  /**
   * One f32: the reduced loss, not multiplied by the upstream gradient; NaN if any target names no class. Not
   * with `SX_NONE`.
   */
  sx_device_ptr loss;
  /**
   * `[rows]` f32: each row's loss, not divided; 0 for ignored rows, NaN for targets that name no class.
   */
  sx_device_ptr row_losses;
  /**
   * `[rows]` f32: each row's log-sum-exp; 0 for ignored rows, NaN for targets that name no class.
   */
  sx_device_ptr row_lse;
  /**
   * `[rows]` int64_t: the class of each row's largest logit, the lowest of several; -1 for ignored rows
   * and targets that name no class.
   */
  sx_device_ptr row_argmax;
  /**
   * One int64_t: rows whose largest logit is the target's. Class indices only.
   */
  sx_device_ptr correct;
  /**
   * What `sx_loss_backward` needs: `sx_saved_bytes`.
   */
  struct sx_memory saved;
} sx_loss_outputs;

/**
 * `sx_reduction`: not at all. Row i's gradient is that of its own loss, and there is no scalar loss.
 */
#define SX_NONE 1

/**
 * `sx_reduction`: their sum.
 */
#define SX_SUM 2

/**
 * `sx_reduction`: their sum, each term divided by its divisor.
 */
#define SX_MEAN 3

/**
 * `sx_smoothing`: e/C on each class, the target among them, which has 1 - e beside that.
 */
#define SX_ALL_CLASSES 1

/**
 * `sx_smoothing`: e/(C - 1 - excluded_classes) on each class but the target, which has 1 - e. Classes can be excluded
 * only by class weights of the smoothing term: 0 for those, 1 for the others; without them a call is refused.
 */
#define SX_OTHER_CLASSES 2

/**
 * `sx_weighted_terms`: the nll term and smoothing, as in PyTorch.
 */
#define SX_NLL_AND_SMOOTHING 1

/**
 * `sx_weighted_terms`: the nll term alone, as in fastai.
 */
#define SX_NLL_ALONE 2

/**
 * `sx_weighted_terms`: smoothing alone.
 */
#define SX_SMOOTHING_ALONE 3

/**
 * `sx_divisor_kind`: the sum of the class weights of the targets, over the rows that are not ignored. The same
 * as `SX_COUNTED_ROWS` where the nll term has no class weights, and for target probabilities.
 */
#define SX_TARGET_WEIGHTS 1

/**
 * `sx_divisor_kind`: the number of rows that are not ignored.
 */
#define SX_COUNTED_ROWS 2

/**
 * `sx_divisor_kind`: the number of all rows.
 */
#define SX_ALL_ROWS 3

/**
 * `sx_divisor_kind`: `sx_divisor.number`.
 */
#define SX_GIVEN 4

/**
 * `sx_empty_mean`: NaN, as in PyTorch.
 */
#define SX_EMPTY_IS_NAN 1

/**
 * `sx_empty_mean`: 0.
 */
#define SX_EMPTY_IS_ZERO 2

/**
 * `sx_binary_smoothing`: to q (1 - e) + e/2, as Keras does.
 */
#define SX_SMOOTH_BY_HALF 1

/**
 * `sx_binary_smoothing`: to q (1 - e) + e/C, as timm does.
 */
#define SX_SMOOTH_BY_CLASSES 2

/**
 * `sx_over_classes`: their mean.
 */
#define SX_MEAN_OF_CLASSES 1

/**
 * `sx_over_classes`: their sum.
 */
#define SX_SUM_OF_CLASSES 2

/**
 * `sx_selection`: the library.
 */
#define SX_FASTEST 1

/**
 * `sx_selection`: the caller. A call that computes a loss or a log-softmax is refused where the strategy cannot
 * take the problem; a gradient alone is then computed with the fastest strategy.
 */
#define SX_PINNED 2

/**
 * `sx_selection`: the caller where the strategy can take the problem, the library elsewhere.
 */
#define SX_PREFERRED 3

/**
 * `sx_softmax`: log softmax(x), what `sx_log_softmax_forward` may write, and `sx_log_softmax_backward` may start
 * from.
 */
#define SX_LOG_PROBABILITIES 1

/**
 * `sx_softmax`: softmax(x), what `sx_log_softmax_forward` may write.
 */
#define SX_PROBABILITIES 2

/**
 * `sx_softmax`: x itself, what `sx_log_softmax_backward` may start from, with what was saved; accurate also as
 * p -> 1.
 */
#define SX_LOGITS 3

/**
 * `sx_status`: all is well.
 */
#define SX_OK 0

/**
 * `sx_status`: a pointer is null that may not be: a handle, a struct, or where a result goes.
 */
#define SX_NULL_POINTER 1

/**
 * `sx_status`: an argument was refused before anything was enqueued; the message has the numbers.
 */
#define SX_INVALID_ARGUMENT 2

/**
 * `sx_status`: there is no CUDA driver.
 */
#define SX_NO_DRIVER 3

/**
 * `sx_status`: there is no such device.
 */
#define SX_NO_DEVICE 4

/**
 * `sx_status`: the library was built without kernels, or without any that this device can run.
 */
#define SX_NO_KERNELS 5

/**
 * `sx_status`: a driver call failed, perhaps because of something that was enqueued earlier.
 */
#define SX_DRIVER_ERROR 6

/**
 * `sx_status`: targets were met that name no class; only `sx_take_status` says so.
 */
#define SX_BAD_TARGETS 7

/**
 * `sx_status`: a defect of the library.
 */
#define SX_PANIC 8

/**
 * `sx_dtype`: IEEE single precision.
 */
#define SX_F32 1

/**
 * `sx_dtype`: IEEE half precision.
 */
#define SX_F16 2

/**
 * `sx_dtype`: bfloat16.
 */
#define SX_BF16 3

/**
 * `sx_target_type`: class indices, one a row, `int32_t`.
 */
#define SX_TARGET_I32 1

/**
 * `sx_target_type`: class indices, one a row, `uint32_t`.
 */
#define SX_TARGET_U32 2

/**
 * `sx_target_type`: class indices, one a row, `int64_t`.
 */
#define SX_TARGET_I64 3

/**
 * `sx_target_type`: probabilities `[rows, classes]`, single precision.
 */
#define SX_TARGET_F32 4

/**
 * `sx_target_type`: probabilities `[rows, classes]`, half precision.
 */
#define SX_TARGET_F16 5

/**
 * `sx_target_type`: probabilities `[rows, classes]`, bfloat16.
 */
#define SX_TARGET_BF16 6

/**
 * `sx_pass`: the loss.
 */
#define SX_FORWARD 1

/**
 * `sx_pass`: the gradient.
 */
#define SX_BACKWARD 2

/**
 * `sx_pass`: both at once.
 */
#define SX_FORWARD_BACKWARD 3

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/**
 * Enqueues the loss on `stream`, with the errors of `sx_loss_forward`.
 *
 * The caller promises:
 * What `sx_loss_forward` asks for.
 */
sx_status sx_binary_forward(const struct sx_kernels *kernels,
                            sx_stream stream,
                            const struct sx_binary_config *config,
                            const struct sx_binary_inputs *inputs,
                            const struct sx_binary_outputs *outputs,
                            struct sx_memory workspace,
                            char *message,
                            size_t message_bytes);

/**
 * Enqueues loss and gradient on `stream`, with the errors of `sx_loss_forward`.
 *
 * The caller promises:
 * What `sx_loss_forward` asks for.
 */
sx_status sx_binary_forward_backward(const struct sx_kernels *kernels,
                                     sx_stream stream,
                                     const struct sx_binary_config *config,
                                     const struct sx_binary_inputs *inputs,
                                     const struct sx_binary_outputs *outputs,
                                     const struct sx_gradient *gradient,
                                     struct sx_memory workspace,
                                     char *message,
                                     size_t message_bytes);

/**
 * Enqueues the gradient on `stream`, with the errors of `sx_loss_forward`; needs nothing of the forward
 * pass.
 *
 * The caller promises:
 * What `sx_loss_forward` asks for.
 */
sx_status sx_binary_backward(const struct sx_kernels *kernels,
                             sx_stream stream,
                             const struct sx_binary_config *config,
                             const struct sx_binary_inputs *inputs,
                             const struct sx_gradient *gradient,
                             struct sx_memory workspace,
                             char *message,
                             size_t message_bytes);

/**
 * How such a call is launched, as `sx_loss_plan`.
 *
 * The caller promises:
 * What `sx_loss_plan` asks for.
 */
sx_status sx_binary_plan(const struct sx_kernels *kernels,
                         const struct sx_binary_config *config,
                         const struct sx_binary_inputs *inputs,
                         sx_pass pass,
                         char *text,
                         size_t text_bytes,
                         size_t *needed,
                         char *message,
                         size_t message_bytes);

/**
 * Fills `config` with a preset, by name: "default", "pytorch", "keras_categorical", "timm", "nvidia",
 * "fastai", "fairseq", "tensor2tensor", "opennmt", "opennmt_before_3_0_3", "megatron", "transformer_engine",
 * "apex", "flash_attn" or "liger". Null stands for "default": the nll of all rows, nothing ignored, divided by the
 * class weights of the targets, or by the number of rows where there are no weights. Label smoothing is 0, and so
 * is apex's padding (`ignore_index`); what fairseq and OpenNMT divide by (`number` of the three divisors) is 1.
 *
 * The caller promises:
 * `config` is null or can be written; `preset` is null or NUL-terminated; `message` is null or has
 * `message_bytes` bytes.
 */
sx_status sx_loss_config_init(struct sx_loss_config *config,
                              const char *preset,
                              char *message,
                              size_t message_bytes);

/**
 * Fills `config` with a preset, by name: "default" or null, "pytorch", "keras" or "timm". Label smoothing is
 * 0.
 *
 * The caller promises:
 * What `sx_loss_config_init` asks for.
 */
sx_status sx_binary_config_init(struct sx_binary_config *config,
                                const char *preset,
                                char *message,
                                size_t message_bytes);

/**
 * The version of the library, such as "0.1.0": `SX_VERSION` of the header it comes with.
 */
const char *sx_version(void);

/**
 * Loads all kernels on a device, counted from 0, once for each device. `kernels` is to be freed by
 * `sx_kernels_free`; it is null after a failure.
 *
 * The caller promises:
 * `kernels` is null or can be written; `message` is null or has `message_bytes` bytes.
 */
sx_status sx_kernels_load(size_t device,
                          struct sx_kernels **kernels,
                          char *message,
                          size_t message_bytes);

/**
 * The same kernels with another choice of strategies: `strategy` is "tiny", "warp", "block", "two_pass",
 * "cluster" or "split_row", and not looked at for `SX_FASTEST`. `selected` is a handle of its own, to be
 * freed by `sx_kernels_free`, in any order.
 *
 * The caller promises:
 * `kernels` is null or a handle; `strategy` is null or NUL-terminated; `selected` is null or can
 * be written; `message` is null or has `message_bytes` bytes.
 */
sx_status sx_kernels_select(const struct sx_kernels *kernels,
                            sx_selection selection,
                            const char *strategy,
                            struct sx_kernels **selected,
                            char *message,
                            size_t message_bytes);

/**
 * Frees a handle. The last one of a device waits for all that is enqueued there, and no captured graph may
 * be replayed afterwards. Null is fine.
 *
 * The caller promises:
 * `kernels` is null, or a handle that no call uses and that was not freed.
 */
void sx_kernels_free(struct sx_kernels *kernels);

/**
 * Bytes of a workspace for problems of up to `rows` rows. A workspace is device memory of the caller's own,
 * all of it zero before its first use, and passed with the same address and length to every call. One
 * workspace serves one call at a time. Otherwise a launch may write anywhere, or never end.
 *
 * The caller promises:
 * `bytes` is null or can be written; `message` is null or has `message_bytes` bytes.
 */
sx_status sx_workspace_bytes(size_t rows,
                             size_t *bytes,
                             char *message,
                             size_t message_bytes);

/**
 * Bytes of what a forward pass of up to `rows` rows saves for the backward pass. They need not be zero.
 *
 * The caller promises:
 * What `sx_workspace_bytes` asks for.
 */
sx_status sx_saved_bytes(size_t rows,
                         size_t *bytes,
                         char *message,
                         size_t message_bytes);

/**
 * Waits for `stream`, and reports targets that were neither a class nor `ignore_index`, seen by any call
 * that used this workspace since the last time; then they are forgotten. Their rows got a NaN loss and a
 * zero gradient, and the reduced loss of such a call is NaN. The status is `SX_BAD_TARGETS` then, and
 * `bad_targets`, if it is not null, says which; it is all zero otherwise. On a stream that is being
 * captured it is refused (`SX_INVALID_ARGUMENT`), and the capture goes on.
 *
 * The caller promises:
 * `kernels` is null or a handle; `workspace` is memory of the device; `stream` belongs to its
 * primary context; `bad_targets` is null or can be written; `message` is null or has `message_bytes` bytes.
 */
sx_status sx_take_status(const struct sx_kernels *kernels,
                         sx_stream stream,
                         struct sx_memory workspace,
                         struct sx_bad_targets *bad_targets,
                         char *message,
                         size_t message_bytes);

/**
 * Enqueues the log-softmax, or softmax, of each row on `stream`, with the errors of `sx_loss_forward`. A row
 * that holds NaN or +inf, or nothing but -inf, gives NaN.
 *
 * The caller promises:
 * What `sx_loss_forward` asks for.
 */
sx_status sx_log_softmax_forward(const struct sx_kernels *kernels,
                                 sx_stream stream,
                                 const struct sx_log_softmax *call,
                                 char *message,
                                 size_t message_bytes);

/**
 * Enqueues the gradient with respect to the logits on `stream`, with the errors of `sx_loss_forward`.
 *
 * The caller promises:
 * What `sx_loss_forward` asks for.
 */
sx_status sx_log_softmax_backward(const struct sx_kernels *kernels,
                                  sx_stream stream,
                                  const struct sx_log_softmax_gradient *call,
                                  char *message,
                                  size_t message_bytes);

/**
 * How a log-softmax (`SX_FORWARD`) or its gradient (`SX_BACKWARD`) is launched, as `sx_loss_plan`.
 *
 * The caller promises:
 * What `sx_loss_plan` asks for.
 */
sx_status sx_log_softmax_plan(const struct sx_kernels *kernels,
                              sx_dtype dtype,
                              const struct sx_log_softmax_shape *shape,
                              sx_pass pass,
                              char *text,
                              size_t text_bytes,
                              size_t *needed,
                              char *message,
                              size_t message_bytes);

/**
 * Enqueues the loss on `stream`; allocates nothing, waits for nothing, may be captured into a graph.
 *
 * A target that is neither a class nor `ignore_index` gives its row a NaN loss and a zero gradient. The reduced
 * loss is NaN then, and the row still counts in a mean's divisor, with a weight of 1. The losses of other rows,
 * and their gradients before they are divided, stay as they are. `sx_take_status` reports such targets.
 *
 * Refused with `SX_INVALID_ARGUMENT` before anything is enqueued: options outside their range, sizes and
 * strides that do not fit, addresses that are null or misaligned, an output at the address of what it is
 * made of without `in_place`, a workspace or `saved` that is too small, a scalar loss with `SX_NONE`,
 * `correct` of probabilities, a pinned strategy that cannot take the problem.
 *
 * The caller promises:
 * `kernels` is null or a handle; structs are null or whole; every address that is not 0 is memory of the
 * device, as long as the shape says, until what was enqueued has run, or has run last in a graph; what is
 * written overlaps nothing else, but for logits in place; `stream` belongs to the device's primary context;
 * `message` is null or has `message_bytes` bytes.
 */
sx_status sx_loss_forward(const struct sx_kernels *kernels,
                          sx_stream stream,
                          const struct sx_loss_config *config,
                          const struct sx_loss_inputs *inputs,
                          const struct sx_loss_outputs *outputs,
                          struct sx_memory workspace,
                          char *message,
                          size_t message_bytes);

/**
 * Enqueues loss and gradient on `stream`, as `sx_loss_forward`. Reads each logit once and writes each
 * gradient once where a row fits shared memory. The same call twice gives the same bits, and so do
 * a call in place, and `sx_loss_forward` and `sx_loss_backward` (many very long rows aside, unless a strategy is
 * preferred or pinned: `sx_kernels_select`).
 *
 * The caller promises:
 * What `sx_loss_forward` asks for.
 */
sx_status sx_loss_forward_backward(const struct sx_kernels *kernels,
                                   sx_stream stream,
                                   const struct sx_loss_config *config,
                                   const struct sx_loss_inputs *inputs,
                                   const struct sx_loss_outputs *outputs,
                                   const struct sx_gradient *gradient,
                                   struct sx_memory workspace,
                                   char *message,
                                   size_t message_bytes);

/**
 * Enqueues the gradient on `stream`, from what `sx_loss_forward` saved: of the same config, types, sizes,
 * logits, targets and class weights, which nobody checks. Only strides may differ, and the gradient may take
 * the place of the logits.
 *
 * The caller promises:
 * What `sx_loss_forward` asks for.
 */
sx_status sx_loss_backward(const struct sx_kernels *kernels,
                           sx_stream stream,
                           const struct sx_loss_config *config,
                           const struct sx_loss_inputs *inputs,
                           struct sx_memory saved,
                           const struct sx_gradient *gradient,
                           char *message,
                           size_t message_bytes);

/**
 * How such a call is launched, and why, as text for people. `text` is cut to fit; `needed`, if it is not
 * null, gets the bytes of the whole. Addresses are not looked at, but whether there are class weights.
 *
 * The caller promises:
 * `kernels` is null or a handle; structs are null or whole; `text` is null or has `text_bytes` bytes;
 * `needed` is null or can be written; `message` is null or has `message_bytes` bytes.
 */
sx_status sx_loss_plan(const struct sx_kernels *kernels,
                       const struct sx_loss_config *config,
                       const struct sx_loss_inputs *inputs,
                       sx_pass pass,
                       char *text,
                       size_t text_bytes,
                       size_t *needed,
                       char *message,
                       size_t message_bytes);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* SMOOTHXENT_H */
