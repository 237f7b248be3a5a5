/* kafka_groups.c - the admin's calls about consumer groups. */
#include "kafka_request.h"


/* admin:groups([timeout_ms]) -> { {name=, state=, simple=}, ... } [, errors] |
 * nil, message, code
 *
 * All groups the cluster knows; `errors` holds {code=, error=} of brokers that
 * did not answer. state as Kafka names it: Stable, Empty, Dead, ... */
int kafka_admin_groups(lua_State *L) {
  struct kafka_client *client = kafka_admin_client(L);
  int timeout_ms = kafka_timeout(L, 2);
  if (kafka_development_wait(client, timeout_ms))
    return kafka_unsupported(L, client);
  struct kafka_request *r = kafka_request_new(
      L, client, RD_KAFKA_ADMIN_OP_LISTCONSUMERGROUPS, timeout_ms);
  rd_kafka_ListConsumerGroups(client->rk, r->options, r->queue);
  int failed = kafka_request_wait(L, r);
  if (failed)
    return failed;
  const rd_kafka_ListConsumerGroups_result_t *result =
      rd_kafka_event_ListConsumerGroups_result(r->event);
  size_t n = 0, errors = 0;
  const rd_kafka_ConsumerGroupListing_t **list =
      rd_kafka_ListConsumerGroups_result_valid(result, &n);
  const rd_kafka_error_t **failures =
      rd_kafka_ListConsumerGroups_result_errors(result, &errors);
  if (n == 0 && errors > 0) {
    failed = kafka_request_fail(L, client, rd_kafka_error_code(failures[0]),
                                rd_kafka_error_string(failures[0]));
    handle_close(&r->h);
    return failed;
  }
  lua_createtable(L, (int)n, 0);
  for (size_t i = 0; i < n; i++) {
    lua_createtable(L, 0, 3);
    kafka_set_str(L, "name", rd_kafka_ConsumerGroupListing_group_id(list[i]));
    kafka_set_str(L, "state",
                  rd_kafka_consumer_group_state_name(
                      rd_kafka_ConsumerGroupListing_state(list[i])));
    kafka_set_bool(
        L, "simple",
        rd_kafka_ConsumerGroupListing_is_simple_consumer_group(list[i]));
    lua_rawseti(L, -2, (lua_Integer)i + 1);
  }
  lua_createtable(L, (int)errors, 0);
  for (size_t i = 0; i < errors; i++) {
    lua_createtable(L, 0, 2);
    kafka_set_str(L, "code", kafka_code(rd_kafka_error_code(failures[i])));
    kafka_set_str(L, "error", rd_kafka_error_string(failures[i]));
    lua_rawseti(L, -2, (lua_Integer)i + 1);
  }
  handle_close(&r->h);
  return 2;
}


/* [-0, +1] */
static void group_member(lua_State *L, const rd_kafka_MemberDescription_t *m) {
  const char *instance = rd_kafka_MemberDescription_group_instance_id(m);
  const rd_kafka_MemberAssignment_t *a =
      rd_kafka_MemberDescription_assignment(m);
  lua_createtable(L, 0, 5);
  kafka_set_str(L, "id", rd_kafka_MemberDescription_consumer_id(m));
  kafka_set_str(L, "client", rd_kafka_MemberDescription_client_id(m));
  kafka_set_str(L, "host", rd_kafka_MemberDescription_host(m));
  if (instance != NULL)
    kafka_set_str(L, "instance", instance);
  kafka_list_push(L, rd_kafka_MemberAssignment_partitions(a));
  lua_setfield(L, -2, "partitions");
}


/* [-0, +1] */
static void group_push(lua_State *L,
                       const rd_kafka_ConsumerGroupDescription_t *g) {
  const rd_kafka_Node_t *node =
      rd_kafka_ConsumerGroupDescription_coordinator(g);
  size_t n = rd_kafka_ConsumerGroupDescription_member_count(g);
  luaL_checkstack(L, 8, "group");
  lua_createtable(L, 0, 6);
  kafka_set_str(L, "name", rd_kafka_ConsumerGroupDescription_group_id(g));
  kafka_set_str(L, "state",
                rd_kafka_consumer_group_state_name(
                    rd_kafka_ConsumerGroupDescription_state(g)));
  kafka_set_str(L, "assignor",
                rd_kafka_ConsumerGroupDescription_partition_assignor(g));
  kafka_set_bool(L, "simple",
                 rd_kafka_ConsumerGroupDescription_is_simple_consumer_group(g));
  if (node != NULL) {
    lua_createtable(L, 0, 3);
    kafka_set_int(L, "id", rd_kafka_Node_id(node));
    kafka_set_str(L, "host", rd_kafka_Node_host(node));
    kafka_set_int(L, "port", rd_kafka_Node_port(node));
    lua_setfield(L, -2, "coordinator");
  }
  lua_createtable(L, (int)n, 0);
  for (size_t i = 0; i < n; i++) {
    group_member(L, rd_kafka_ConsumerGroupDescription_member(g, i));
    lua_rawseti(L, -2, (lua_Integer)i + 1);
  }
  lua_setfield(L, -2, "members");
}


/* admin:describe_group(name [, timeout_ms]) -> {name=, state=, assignor=,
 * simple=, coordinator={id=, host=, port=}, members={ {id=, client=, host=,
 * instance=, partitions={ {topic=, partition=} }} }} | nil, message, code
 *
 * A group that does not exist has state Dead. */
int kafka_admin_describe_group(lua_State *L) {
  struct kafka_client *client = kafka_admin_client(L);
  const char *name = luaL_checkstring(L, 2);
  int timeout_ms = kafka_timeout(L, 3);
  if (kafka_development_wait(client, timeout_ms))
    return kafka_unsupported(L, client);
  struct kafka_request *r = kafka_request_new(
      L, client, RD_KAFKA_ADMIN_OP_DESCRIBECONSUMERGROUPS, timeout_ms);
  rd_kafka_DescribeConsumerGroups(client->rk, &name, 1, r->options, r->queue);
  int failed = kafka_request_wait(L, r);
  if (failed)
    return failed;
  size_t n = 0;
  const rd_kafka_ConsumerGroupDescription_t **groups =
      rd_kafka_DescribeConsumerGroups_result_groups(
          rd_kafka_event_DescribeConsumerGroups_result(r->event), &n);
  const rd_kafka_error_t *error =
      n > 0 ? rd_kafka_ConsumerGroupDescription_error(groups[0]) : NULL;
  int pushed = 1;
  if (n == 0)
    pushed = kafka_fail(L, RD_KAFKA_RESP_ERR__BAD_MSG, "an empty answer");
  else if (error != NULL)
    pushed = kafka_request_fail(L, client, rd_kafka_error_code(error),
                                rd_kafka_error_string(error));
  else
    group_push(L, groups[0]);
  handle_close(&r->h);
  return pushed;
}


/* admin:group_offsets(group [, list [, timeout_ms]]) -> list | nil, message,
 * code
 *
 * The offsets committed to the group: of the partitions in `list`, or of all
 * it has. An entry without a committed offset has no offset. */
int kafka_admin_group_offsets(lua_State *L) {
  struct kafka_client *client = kafka_admin_client(L);
  const char *name = luaL_checkstring(L, 2);
  int timeout_ms = kafka_timeout(L, 4);
  rd_kafka_topic_partition_list_t *list =
      lua_isnoneornil(L, 3) ? NULL
                            : kafka_list_check(L, 3, NULL, KAFKA_OFFSET_NONE);
  if (list != NULL && list->cnt == 0) {
    lua_newtable(L);
    return 1;
  }
  if (kafka_development_wait(client, timeout_ms))
    return kafka_unsupported(L, client);
  struct kafka_request *r = kafka_request_new(
      L, client, RD_KAFKA_ADMIN_OP_LISTCONSUMERGROUPOFFSETS, timeout_ms);
  rd_kafka_ListConsumerGroupOffsets_t *ask =
      rd_kafka_ListConsumerGroupOffsets_new(name, list);
  rd_kafka_ListConsumerGroupOffsets(client->rk, &ask, 1, r->options, r->queue);
  rd_kafka_ListConsumerGroupOffsets_destroy(ask);
  int failed = kafka_request_wait(L, r);
  if (failed)
    return failed;
  size_t n = 0;
  const rd_kafka_group_result_t **groups =
      rd_kafka_ListConsumerGroupOffsets_result_groups(
          rd_kafka_event_ListConsumerGroupOffsets_result(r->event), &n);
  const rd_kafka_error_t *error =
      n > 0 ? rd_kafka_group_result_error(groups[0]) : NULL;
  int pushed = 1;
  if (n == 0)
    pushed = kafka_fail(L, RD_KAFKA_RESP_ERR__BAD_MSG, "an empty answer");
  else if (error != NULL)
    pushed = kafka_request_fail(L, client, rd_kafka_error_code(error),
                                rd_kafka_error_string(error));
  else
    kafka_list_push(L, rd_kafka_group_result_partitions(groups[0]));
  handle_close(&r->h);
  return pushed;
}


/* admin:delete_group(name [, timeout_ms]) -> true | nil, message, code
 *
 * Only a group without members can be deleted. */
int kafka_admin_delete_group(lua_State *L) {
  struct kafka_client *client = kafka_admin_client(L);
  const char *name = luaL_checkstring(L, 2);
  int timeout_ms = kafka_timeout(L, 3);
  if (kafka_development_wait(client, timeout_ms))
    return kafka_unsupported(L, client);
  struct kafka_request *r =
      kafka_request_new(L, client, RD_KAFKA_ADMIN_OP_DELETEGROUPS, timeout_ms);
  rd_kafka_DeleteGroup_t *group = rd_kafka_DeleteGroup_new(name);
  rd_kafka_DeleteGroups(client->rk, &group, 1, r->options, r->queue);
  rd_kafka_DeleteGroup_destroy(group);
  int failed = kafka_request_wait(L, r);
  if (failed)
    return failed;
  size_t n = 0;
  const rd_kafka_group_result_t **groups = rd_kafka_DeleteGroups_result_groups(
      rd_kafka_event_DeleteGroups_result(r->event), &n);
  const rd_kafka_error_t *error =
      n > 0 ? rd_kafka_group_result_error(groups[0]) : NULL;
  int pushed = 1;
  if (error != NULL)
    pushed = kafka_request_fail(L, client, rd_kafka_error_code(error),
                                rd_kafka_error_string(error));
  else
    lua_pushboolean(L, 1);
  handle_close(&r->h);
  return pushed;
}
