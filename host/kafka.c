/* kafka.c - the module host.kafka.
 *
 * Producer, consumer, reader, admin and the development broker are handles,
 * each in a file of its own. Nothing here owns a resource. */
#include "kafka.h"


/* kafka.version() -> "2.0.2" */
static int kafka_version(lua_State *L) {
  lua_pushstring(L, rd_kafka_version_str());
  return 1;
}


int luaopen_host_kafka(lua_State *L);

int luaopen_host_kafka(lua_State *L) {
  static const luaL_Reg functions[] = {{"producer", kafka_producer_new},
                                       {"consumer", kafka_consumer_new},
                                       {"reader", kafka_reader_new},
                                       {"admin", kafka_admin_new},
                                       {"broker", kafka_broker_new},
                                       {"version", kafka_version},
                                       {NULL, NULL}};
  kafka_list_open(L);
  kafka_job_open(L);
  kafka_consumer_open(L);
  kafka_reader_open(L);
  kafka_producer_open(L);
  kafka_admin_open(L);
  kafka_broker_open(L);
  luaL_newlib(L, functions);
  return 1;
}
