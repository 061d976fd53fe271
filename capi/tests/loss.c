/*
 * Runs the cases of a file through the C interface, and writes the bytes of their results to another; then
 * makes mistakes, and prints what the library says. languages.rs writes the cases, runs this, and compares.
 *
 *     loss CASES RESULTS
 */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "smoothxent.h"

/* What a case begins with, before the bytes of its inputs. */
struct header {
    uint64_t operation; /* 0: loss and gradient at once, 1: apart, 2: log-softmax, 3: binary */
    uint64_t rows, classes, logits_row_stride, gradient_row_stride, targets_row_stride;
    uint64_t dtype, target_type, in_place, upstream_per_row;
    uint64_t logits_bytes, targets_bytes, weights_bytes, upstream_bytes, gradient_bytes;
    double label_smoothing, z_loss;
    char preset[32];
};

/* ---------------------------------------------------------------- the driver, without its header */

typedef uint64_t device_ptr;

static struct {
    int (*init)(unsigned flags);
    int (*retain)(void **context, int device);
    int (*set_current)(void *context);
    int (*get_current)(void **context);
    int (*alloc)(device_ptr *to, size_t bytes);
    int (*free)(device_ptr memory);
    int (*to_device)(device_ptr to, const void *from, size_t bytes);
    int (*to_host)(void *to, device_ptr from, size_t bytes);
    int (*fill)(device_ptr to, unsigned char value, size_t bytes);
    int (*stream_create)(void **stream, unsigned flags);
    int (*stream_synchronize)(void *stream);
} cu;

static void fail(const char *what, int code) {
    fprintf(stderr, "loss.c: %s: %d\n", what, code);
    exit(1);
}

static void driver(const char *what, int code) {
    if (code != 0) fail(what, code);
}

static void find(void *library, void *function, const char *name) {
    void *found = dlsym(library, name);
    if (found == NULL) fail(name, 0);
    memcpy(function, &found, sizeof found);
}

/* The primary one of the device. */
static void *context;

static void open_driver(void) {
    void *library = dlopen("libcuda.so.1", RTLD_NOW);
    if (library == NULL) fail(dlerror(), 0);
    find(library, &cu.init, "cuInit");
    find(library, &cu.retain, "cuDevicePrimaryCtxRetain");
    find(library, &cu.set_current, "cuCtxSetCurrent");
    find(library, &cu.get_current, "cuCtxGetCurrent");
    find(library, &cu.alloc, "cuMemAlloc_v2");
    find(library, &cu.free, "cuMemFree_v2");
    find(library, &cu.to_device, "cuMemcpyHtoD_v2");
    find(library, &cu.to_host, "cuMemcpyDtoH_v2");
    find(library, &cu.fill, "cuMemsetD8_v2");
    find(library, &cu.stream_create, "cuStreamCreate");
    find(library, &cu.stream_synchronize, "cuStreamSynchronize");
    driver("cuInit", cu.init(0));
    driver("cuDevicePrimaryCtxRetain", cu.retain(&context, 0));
    driver("cuCtxSetCurrent", cu.set_current(context));
}

/* Memory that is 0, at least a byte of it. */
static device_ptr zeroed(size_t bytes) {
    device_ptr memory;
    driver("cuMemAlloc", cu.alloc(&memory, bytes + 1));
    driver("cuMemsetD8", cu.fill(memory, 0, bytes + 1));
    return memory;
}

/* ---------------------------------------------------------------- cases */

static void read_all(void *to, size_t bytes, FILE *from) {
    if (bytes != 0 && fread(to, bytes, 1, from) != 1) fail("the cases end too early", 0);
}

/* The next bytes of the file, on the device; 0 for none. */
static device_ptr read_to_device(size_t bytes, FILE *from) {
    void *host = malloc(bytes + 1);
    device_ptr memory = bytes == 0 ? 0 : zeroed(bytes);
    if (host == NULL) fail("malloc", 0);
    read_all(host, bytes, from);
    if (bytes != 0) driver("cuMemcpyHtoD", cu.to_device(memory, host, bytes));
    free(host);
    return memory;
}

static void write_from_device(device_ptr from, size_t bytes, FILE *to) {
    void *host = malloc(bytes + 1);
    if (host == NULL) fail("malloc", 0);
    if (bytes != 0) driver("cuMemcpyDtoH", cu.to_host(host, from, bytes));
    if (bytes != 0 && fwrite(host, bytes, 1, to) != 1) fail("cannot write results", 0);
    free(host);
}

static char message[256];

/* A message, and how long it may be. */
#define MESSAGE message, sizeof message

static void library(sx_status status) {
    if (status != SX_OK) fail(message, status);
}

static void leave_context(void) {
    driver("cuCtxSetCurrent", cu.set_current(NULL));
}

static void back_in_context(sx_status status) {
    void *current;
    driver("cuCtxGetCurrent", cu.get_current(&current));
    if (current != NULL) fail("a call left a context current", 0);
    driver("cuCtxSetCurrent", cu.set_current(context));
    library(status);
}

/* A call of the library while no context is current, as none may be afterwards. */
#define WITHOUT_CONTEXT(call) (leave_context(), back_in_context(call))

static sx_shape shape_of(const struct header *h) {
    sx_shape shape;
    shape.rows = h->rows;
    shape.classes = h->classes;
    shape.logits_row_stride = h->logits_row_stride;
    shape.gradient_row_stride = h->gradient_row_stride;
    shape.targets_row_stride = h->targets_row_stride;
    return shape;
}

static void run_loss(const sx_kernels *kernels, void *stream, const struct header *h, device_ptr logits,
                     device_ptr targets, device_ptr weights, device_ptr upstream, device_ptr gradient,
                     sx_memory workspace, FILE *results) {
    sx_loss_config config;
    sx_loss_inputs inputs = {0};
    sx_loss_outputs outputs = {0};
    sx_gradient to = {0};
    library(sx_loss_config_init(&config, h->preset, MESSAGE));
    config.label_smoothing = h->label_smoothing;
    config.z_loss = h->z_loss;
    inputs.dtype = (sx_dtype)h->dtype;
    inputs.target_type = (sx_target_type)h->target_type;
    inputs.shape = shape_of(h);
    inputs.logits = logits;
    inputs.targets = targets;
    inputs.class_weights = weights;
    outputs.loss = zeroed(4);
    outputs.row_losses = zeroed(4 * h->rows);
    outputs.row_lse = zeroed(4 * h->rows);
    outputs.row_argmax = zeroed(8 * h->rows);
    if (h->target_type <= SX_TARGET_I64) outputs.correct = zeroed(8);
    to.matrix = h->in_place ? logits : gradient;
    to.upstream = upstream;
    to.upstream_per_row = h->upstream_per_row != 0;
    if (h->operation == 0) {
        inputs.in_place = h->in_place != 0;
        WITHOUT_CONTEXT(sx_loss_forward_backward(kernels, stream, &config, &inputs, &outputs, &to,
                                                 workspace, MESSAGE));
    } else {
        sx_memory saved;
        library(sx_saved_bytes(h->rows, &saved.bytes, MESSAGE));
        saved.address = zeroed(saved.bytes);
        outputs.saved = saved;
        WITHOUT_CONTEXT(
            sx_loss_forward(kernels, stream, &config, &inputs, &outputs, workspace, MESSAGE));
        inputs.in_place = h->in_place != 0;
        WITHOUT_CONTEXT(sx_loss_backward(kernels, stream, &config, &inputs, saved, &to, MESSAGE));
    }
    driver("cuStreamSynchronize", cu.stream_synchronize(stream));
    write_from_device(to.matrix, h->gradient_bytes, results);
    write_from_device(outputs.loss, 4, results);
    write_from_device(outputs.row_losses, 4 * h->rows, results);
    write_from_device(outputs.row_lse, 4 * h->rows, results);
    write_from_device(outputs.row_argmax, 8 * h->rows, results);
    if (outputs.correct != 0) write_from_device(outputs.correct, 8, results);
}

static void run_log_softmax(const sx_kernels *kernels, void *stream, const struct header *h,
                            device_ptr logits, device_ptr upstream, device_ptr gradient, FILE *results) {
    sx_log_softmax call = {0};
    sx_log_softmax_gradient backward = {0};
    call.dtype = (sx_dtype)h->dtype;
    call.shape.rows = h->rows;
    call.shape.classes = h->classes;
    call.shape.logits_row_stride = h->logits_row_stride;
    call.shape.output_row_stride = h->gradient_row_stride;
    call.shape.gradient_row_stride = h->gradient_row_stride;
    call.logits = logits;
    call.what = SX_LOG_PROBABILITIES;
    call.output = zeroed(h->gradient_bytes);
    call.row_lse = zeroed(4 * h->rows);
    library(sx_saved_bytes(h->rows, &call.saved.bytes, MESSAGE));
    call.saved.address = zeroed(call.saved.bytes);
    WITHOUT_CONTEXT(sx_log_softmax_forward(kernels, stream, &call, MESSAGE));
    backward.dtype = call.dtype;
    backward.shape = call.shape;
    backward.what = SX_LOGITS;
    backward.values = logits;
    backward.saved = call.saved;
    backward.upstream = upstream;
    backward.gradient = gradient;
    WITHOUT_CONTEXT(sx_log_softmax_backward(kernels, stream, &backward, MESSAGE));
    driver("cuStreamSynchronize", cu.stream_synchronize(stream));
    write_from_device(call.output, h->gradient_bytes, results);
    write_from_device(call.row_lse, 4 * h->rows, results);
    write_from_device(gradient, h->gradient_bytes, results);
}

static void run_binary(const sx_kernels *kernels, void *stream, const struct header *h, device_ptr logits,
                       device_ptr targets, device_ptr weights, device_ptr upstream, sx_memory workspace,
                       FILE *results) {
    int together;
    sx_binary_config config;
    sx_binary_inputs inputs = {0};
    sx_binary_outputs outputs = {0};
    sx_gradient to = {0};
    library(sx_binary_config_init(&config, h->preset, MESSAGE));
    config.label_smoothing = h->label_smoothing;
    inputs.dtype = (sx_dtype)h->dtype;
    inputs.target_type = (sx_target_type)h->target_type;
    inputs.shape = shape_of(h);
    inputs.logits = logits;
    inputs.targets = targets;
    inputs.positive_weights = weights;
    to.upstream = upstream;
    to.upstream_per_row = h->upstream_per_row != 0;
    /* Both passes at once are the same as apart, which the comparison shows. */
    for (together = 0; together <= 1; together++) {
        outputs.loss = zeroed(4);
        outputs.row_losses = zeroed(4 * h->rows);
        to.matrix = zeroed(h->gradient_bytes);
        if (together) {
            WITHOUT_CONTEXT(sx_binary_forward_backward(kernels, stream, &config, &inputs, &outputs, &to,
                                                       workspace, MESSAGE));
        } else {
            WITHOUT_CONTEXT(
                sx_binary_forward(kernels, stream, &config, &inputs, &outputs, workspace, MESSAGE));
            WITHOUT_CONTEXT(
                sx_binary_backward(kernels, stream, &config, &inputs, &to, workspace, MESSAGE));
        }
        driver("cuStreamSynchronize", cu.stream_synchronize(stream));
        write_from_device(to.matrix, h->gradient_bytes, results);
        write_from_device(outputs.loss, 4, results);
        write_from_device(outputs.row_losses, 4 * h->rows, results);
    }
}

/* ---------------------------------------------------------------- mistakes */

static void say(const char *what, sx_status status) {
    printf("%s: %d: %s\n", what, (int)status, message);
}

static void make_mistakes(const sx_kernels *kernels, void *stream, sx_memory workspace) {
    sx_loss_config config;
    sx_loss_inputs inputs = {0};
    sx_loss_outputs outputs = {0};
    sx_gradient to = {0};
    sx_bad_targets bad;
    sx_kernels *other;
    const int64_t targets[2] = {1, 7};
    char text[8];
    size_t needed;

    say("preset", sx_loss_config_init(&config, "tensorflow", MESSAGE));
    library(sx_loss_config_init(&config, "pytorch", MESSAGE));
    inputs.dtype = SX_F32;
    inputs.target_type = SX_TARGET_I64;
    inputs.shape.rows = 2;
    inputs.shape.classes = 3;
    inputs.logits = zeroed(24);
    inputs.targets = zeroed(16);
    driver("cuMemcpyHtoD", cu.to_device(inputs.targets, targets, sizeof targets));
    outputs.loss = zeroed(4);
    to.matrix = zeroed(24);

    say("null handle",
        sx_loss_forward_backward(NULL, stream, &config, &inputs, &outputs, &to, workspace, MESSAGE));
    say("null config",
        sx_loss_forward_backward(kernels, stream, NULL, &inputs, &outputs, &to, workspace, MESSAGE));
    config.label_smoothing = 1.5;
    say("smoothing",
        sx_loss_forward_backward(kernels, stream, &config, &inputs, &outputs, &to, workspace, MESSAGE));
    /* A message is not needed. */
    if (sx_loss_forward(kernels, stream, &config, &inputs, &outputs, workspace, NULL, 0)
        != SX_INVALID_ARGUMENT) {
        fail("no message, no error", 0);
    }
    config.label_smoothing = 0.1;
    workspace.bytes = 64;
    say("workspace",
        sx_loss_forward_backward(kernels, stream, &config, &inputs, &outputs, &to, workspace, MESSAGE));
    library(sx_workspace_bytes(2, &workspace.bytes, MESSAGE));
    inputs.dtype = 0;
    say("dtype", sx_loss_forward(kernels, stream, &config, &inputs, &outputs, workspace, MESSAGE));
    inputs.dtype = SX_F32;
    inputs.logits += 2;
    say("alignment", sx_loss_forward(kernels, stream, &config, &inputs, &outputs, workspace, MESSAGE));
    inputs.logits -= 2;
    say("device", sx_kernels_load(99, &other, MESSAGE));
    say("strategy", sx_kernels_select(kernels, SX_PINNED, "fast", &other, MESSAGE));
    if (other != NULL) fail("a handle in spite of an error", 0);

    /* A workspace of its own, since its length differs. */
    workspace.address = zeroed(workspace.bytes);
    library(sx_loss_forward(kernels, stream, &config, &inputs, &outputs, workspace, MESSAGE));
    say("status", sx_take_status(kernels, stream, workspace, &bad, MESSAGE));
    printf("bad targets: %llu, row %llu, target %lld of %llu\n", (unsigned long long)bad.count,
           (unsigned long long)bad.row, (long long)bad.target, (unsigned long long)bad.classes);
    say("status again", sx_take_status(kernels, stream, workspace, NULL, MESSAGE));

    library(sx_kernels_select(kernels, SX_PINNED, "block", &other, MESSAGE));
    library(sx_loss_plan(other, &config, &inputs, SX_FORWARD, text, sizeof text, &needed, MESSAGE));
    printf("plan: %s... of %s\n", text, needed > sizeof text ? "more" : "no more");
    sx_kernels_free(other);
    sx_kernels_free(NULL);
}

int main(int count, char **arguments) {
    void *current, *stream;
    sx_kernels *kernels;
    sx_memory workspace;
    struct header h;
    FILE *cases = count == 3 ? fopen(arguments[1], "rb") : NULL;
    FILE *results = count == 3 ? fopen(arguments[2], "wb") : NULL;
    if (cases == NULL || results == NULL) fail("usage: loss CASES RESULTS", count);

    if (strcmp(sx_version(), SX_VERSION) != 0) fail(sx_version(), 0);
    open_driver();
    driver("cuStreamCreate", cu.stream_create(&stream, 1));
    WITHOUT_CONTEXT(sx_kernels_load(0, &kernels, MESSAGE));
    library(sx_workspace_bytes(4096, &workspace.bytes, MESSAGE));
    workspace.address = zeroed(workspace.bytes);
    while (fread(&h, sizeof h, 1, cases) == 1) {
        device_ptr logits = read_to_device(h.logits_bytes, cases);
        device_ptr targets = read_to_device(h.targets_bytes, cases);
        device_ptr weights = read_to_device(h.weights_bytes, cases);
        device_ptr upstream = read_to_device(h.upstream_bytes, cases);
        device_ptr gradient = zeroed(h.gradient_bytes);
        if (h.operation <= 1) {
            run_loss(kernels, stream, &h, logits, targets, weights, upstream, gradient, workspace, results);
        } else if (h.operation == 2) {
            run_log_softmax(kernels, stream, &h, logits, upstream, gradient, results);
        } else {
            run_binary(kernels, stream, &h, logits, targets, weights, upstream, workspace, results);
        }
        driver("cuMemFree", cu.free(gradient));
    }
    WITHOUT_CONTEXT(sx_take_status(kernels, stream, workspace, NULL, MESSAGE));
    make_mistakes(kernels, stream, workspace);
    driver("cuCtxGetCurrent", cu.get_current(&current));
    if (current != context) fail("a call changed the current context", 0);
    sx_kernels_free(kernels);
    if (fclose(results) != 0) fail("cannot write results", 0);
    fclose(cases);
    return 0;
}
