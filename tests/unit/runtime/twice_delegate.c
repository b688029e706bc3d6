/* A delegate for tests: it takes over the custom operator "dsops-twice", which doubles floats, as an accelerator's
 * library takes over its own. The option "mood" makes it "refuse", "crash", "hang" or "chat" when it is made, "balk" or "fault"
 * at every model, answer "wrong"ly, or be "stuck" with the first frame. With the option "lock", a path, it serves one process at a time, as an Edge TPU does.
 *
 * Only what it uses of the C interface is declared; the order of the fields is that of tensorflow/lite/core/c/common.h,
 * which is stable for external delegates.
 */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

typedef struct { int size; int data[]; } Ints;
typedef struct { float scale; int32_t zero; } Params;
typedef struct { int type; float *data; Ints *dims; Params params; int allocation; size_t bytes; } TensorHead;
typedef struct Context Context;
typedef struct Delegate Delegate;
typedef struct { Ints *inputs, *outputs, *intermediates, *temporaries; void *user; } Node;
typedef struct {
    void *(*init)(Context *, const char *, size_t);
    void (*release)(Context *, void *);
    int (*prepare)(Context *, Node *);
    int (*invoke)(Context *, Node *);
    const char *(*profiling)(const Context *, const Node *);
    int32_t builtin;
    const char *name;
    int version;
    void *external, *async;
    uint64_t inplace;
    void *more[4];
} Registration;
struct Context {
    size_t tensors_size;
    int (*plan)(Context *, Ints **);
    char *tensors;
    void *impl;
    int (*resize)(Context *, void *, Ints *);
    void (*report)(Context *, const char *, ...);
    int (*add)(Context *, int, int *);
    int (*node)(Context *, int, Node **, Registration **);
    int (*replace)(Context *, Registration, const Ints *, Delegate *);
};
struct Delegate {
    void *data;
    int (*prepare)(Context *, Delegate *);
    void *from, *to, *drop;
    int64_t flags;
    void *opaque;
};

enum { TENSOR_BYTES = 112, ALLOW_DYNAMIC_TENSORS = 1 }; /* a whole TfLiteTensor, where pointers have eight bytes */

static int lock = -1, users; /* of this process */
static float factor = 2;

static TensorHead *tensor(Context *context, int index) {
    return (TensorHead *)(context->tensors + index * TENSOR_BYTES);
}

static void *begin(Context *context, const char *buffer, size_t length) { return NULL; }
static void end(Context *context, void *data) {}
static int ready(Context *context, Node *node) { return 0; }

static int twice(Context *context, Node *node) {
    TensorHead *in = tensor(context, node->inputs->data[0]), *out = tensor(context, node->outputs->data[0]);
    while (factor == 0) continue;
    for (size_t at = 0; at < in->bytes / sizeof(float); at++) out->data[at] = factor * in->data[at];
    return 0;
}

static int take(Context *context, Delegate *delegate) {
    Ints *plan;
    if (delegate->data == &factor) *(volatile int *)0 = 1;
    if (delegate->data || context->plan(context, &plan)) return 1;
    Ints *mine = calloc(1, sizeof(Ints) + plan->size * sizeof(int));
    for (int at = 0; at < plan->size; at++) {
        Node *node;
        Registration *known;
        if (context->node(context, plan->data[at], &node, &known)) return 1;
        if (known->name && !strcmp(known->name, "dsops-twice")) mine->data[mine->size++] = plan->data[at];
    }
    Registration kernel = {begin, end, ready, twice, NULL, 0, "TwiceDelegate", 1};
    int status = mine->size ? context->replace(context, kernel, mine, delegate) : 0;
    free(mine);
    return status;
}

static int is_held(const char *path) {
    if (users++) return 0;
    lock = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (lock >= 0 && !flock(lock, LOCK_EX | LOCK_NB)) return 0;
    if (lock >= 0) close(lock);
    users = 0;
    return 1;
}

Delegate *tflite_plugin_create_delegate(char **keys, char **values, size_t count, void (*report)(const char *)) {
    const char *mood = "";
    for (size_t at = 0; at < count; at++) {
        if (!strcmp(keys[at], "mood")) mood = values[at];
        if (!strcmp(keys[at], "lock") && is_held(values[at])) {
            report("another process holds the accelerator");
            return NULL;
        }
    }
    if (!strcmp(mood, "crash")) *(volatile int *)0 = 1;
    if (!strcmp(mood, "hang")) pause();
    for (int line = 0; !strcmp(mood, "chat") && line < 4096; line++) puts("The accelerator is glad to be of service.");
    if (!strcmp(mood, "refuse")) {
        report("there is no such accelerator");
        return NULL;
    }
    Delegate *made = calloc(1, sizeof(Delegate));
    made->prepare = take;
    made->flags = ALLOW_DYNAMIC_TENSORS; /* else the operator is looked for before it is taken over */
    if (!strcmp(mood, "balk")) made->data = made;
    if (!strcmp(mood, "fault")) made->data = &factor;
    factor = !strcmp(mood, "stuck") ? 0 : !strcmp(mood, "wrong") ? 3 : 2;
    return made;
}

void tflite_plugin_destroy_delegate(Delegate *delegate) {
    free(delegate);
    if (users && !--users) close(lock);
}
