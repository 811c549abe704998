#ifndef PLATTER_CCRYPTO_SHIM_H
#define PLATTER_CCRYPTO_SHIM_H
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/rand.h>

/* libcrypto's functions on untyped memory, so that Swift need not rebind its buffers. All answer 1 or 0. */

static inline int platter_random(void *bytes, int count) { return RAND_priv_bytes(bytes, count); }

static inline int platter_pbkdf2(const void *password, int password_count, const void *salt, int salt_count,
                                 int iterations, const EVP_MD *hash, void *key, int key_count) {
    return PKCS5_PBKDF2_HMAC(password, password_count, salt, salt_count, iterations, hash, key_count, key);
}

static inline int platter_digest_final(EVP_MD_CTX *context, void *digest) {
    return EVP_DigestFinal_ex(context, digest, 0);
}

static inline int platter_cipher_key(EVP_CIPHER_CTX *context, const EVP_CIPHER *cipher, const void *key,
                                     int encrypts) {
    return EVP_CipherInit_ex(context, cipher, 0, key, 0, encrypts) == 1 &&
           EVP_CIPHER_CTX_set_padding(context, 0) == 1;
}

static inline int platter_cipher_vector(EVP_CIPHER_CTX *context, const void *vector) {
    return EVP_CipherInit_ex(context, 0, 0, 0, vector, -1);
}

static inline int platter_cipher(EVP_CIPHER_CTX *context, void *target, const void *source, int count) {
    int written = 0;
    return EVP_CipherUpdate(context, target, &written, source, count) == 1 && written == count;
}
#endif
