/* kafka_trust.c - why a broker's certificate is refused, in words.
 *
 * The verification itself is OpenSSL's, with librdkafka's settings; this only
 * tells its verdict, for librdkafka reports the same text for an expired
 * certificate, a foreign authority and a wrong host name. Called on
 * librdkafka's threads. */
#include <stdio.h>

#include "kafka.h"

/* The numbers are those of openssl/x509_vfy.h, which programs see as well. */
static const struct {
  int number;
  const char *text;
} reasons[] = {
    {2, "the certificate of the authority that signed it is not known"},
    {9, "it is not valid yet"},
    {10, "it has expired"},
    {18, "it is signed by itself and not trusted"},
    {19, "it was signed by an authority that is not trusted"},
    {20, "it was signed by an authority that is not known"},
    {21, "it was signed by an authority that is not known"},
    {23, "it was revoked"},
    {62, "it is not for this host name"},
    {64, "it is not for this address"},
};


static int trust_verify(rd_kafka_t *rk, const char *broker, int32_t id,
                        int *error, int depth, const char *der, size_t size,
                        char *text, size_t text_size, void *opaque) {
  struct kafka_client *client = opaque;
  char reason[KAFKA_TEXT_MAX];
  const char *why = NULL;
  (void)rk, (void)id, (void)depth, (void)der, (void)size;
  if (*error == 0)
    return 1;
  for (size_t i = 0; i < sizeof reasons / sizeof *reasons; i++) {
    if (reasons[i].number == *error)
      why = reasons[i].text;
  }
  if (why != NULL)
    snprintf(text, text_size, "%s", why);
  else
    snprintf(text, text_size, "OpenSSL's verification error %d", *error);
  snprintf(reason, sizeof reason, "%.200s: its certificate is refused: %.200s",
           broker, text);
  kafka_feed_error(&client->feed, RD_KAFKA_RESP_ERR__SSL, 0, NULL, -1, -1,
                   reason);
  return 0;
}


void kafka_trust(rd_kafka_conf_t *conf) {
  /* Fails in a librdkafka built without TLS, which then has no brokers that
   * show a certificate. */
  rd_kafka_conf_set_ssl_cert_verify_cb(conf, trust_verify);
}
