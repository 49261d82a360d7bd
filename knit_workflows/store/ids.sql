-- name: packed

-- The ids of a statement, 16 bytes each; nothing else says that an aggregate keeps its order.
SELECT coalesce(string_agg(uuid_send(found.id), ''::bytea ORDER BY found.place), ''::bytea) AS ids
  FROM unnest(ARRAY(
/*ids*/
)) WITH ORDINALITY AS found (id, place)
