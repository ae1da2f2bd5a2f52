/* Decode a fixed sequence of tokens and write the float32 logits of every position to standard output.
 *
 *     logits MODEL POSITIONS CHUNK THREADS
 *
 * CHUNK tokens go into one batch: POSITIONS of them prefill in one go, 1 decodes token by token. Standard error gets the
 * CPU seconds that the decoding took. No Python: this runs under an emulator of another processor too.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "llama.h"

static void quiet(enum ggml_log_level level, const char * text, void * data) {
    (void) data;
    if (level == GGML_LOG_LEVEL_ERROR) {
        fputs(text, stderr);
    }
}

int main(int count, char ** arguments) {
    if (count != 5) {
        fputs("usage: logits MODEL POSITIONS CHUNK THREADS\n", stderr);
        return 2;
    }
    const int positions = atoi(arguments[2]), chunk = atoi(arguments[3]), threads = atoi(arguments[4]);
    llama_log_set(quiet, NULL);
    llama_backend_init();
    struct llama_model * model = llama_model_load_from_file(arguments[1], llama_model_default_params());
    if (model == NULL) {
        return 1;
    }
    struct llama_context_params params = llama_context_default_params();
    params.n_ctx = (uint32_t) positions;
    params.n_batch = params.n_ubatch = (uint32_t) chunk;
    params.n_threads = params.n_threads_batch = threads;
    params.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_ENABLED;
    params.kv_unified = false;
    struct llama_context * context = llama_init_from_model(model, params);
    if (context == NULL) {
        return 1;
    }
    const int vocabulary = llama_vocab_n_tokens(llama_model_get_vocab(model));
    struct llama_batch batch = llama_batch_init(chunk, 0, 1);
    uint32_t state = 12345;
    const clock_t start = clock();
    for (int done = 0; done < positions; done += batch.n_tokens) {
        batch.n_tokens = positions - done < chunk ? positions - done : chunk;
        for (int i = 0; i < batch.n_tokens; ++i) {
            state = state * 1664525u + 1013904223u;
            batch.token[i] = (llama_token) ((state >> 8) % (uint32_t) vocabulary);
            batch.pos[i] = done + i;
            batch.n_seq_id[i] = 1;
            batch.seq_id[i][0] = 0;
            batch.logits[i] = 1;
        }
        if (llama_decode(context, batch) != 0) {
            return 1;
        }
        for (int i = 0; i < batch.n_tokens; ++i) {
            if (fwrite(llama_get_logits_ith(context, i), sizeof(float), (size_t) vocabulary, stdout) != (size_t) vocabulary) {
                return 1;
            }
        }
    }
    fprintf(stderr, "%.3f\n", (double) (clock() - start) / CLOCKS_PER_SEC);
    return fflush(stdout) == 0 ? 0 : 1;
}
