-- name: data

-- Data by time, then id; `d` is `data`, or `data_tag` for one tag: a range of an index in both cases.
SELECT d.knit_id
  FROM /*source*/
 WHERE /*where*/
 ORDER BY d.timestamp, d.knit_id
 LIMIT %(limit)s

-- name: run_of_data

-- Joined if a condition is about the Run that makes the Data.
  JOIN data own ON own.knit_id = d.knit_id
  JOIN run r ON r.run_id = own.run_id

-- name: of_some_tag

-- In the place of `data_tag`: the Data that have one of these tags at least.
(SELECT DISTINCT knit_id, timestamp FROM data_tag WHERE tag_id = ANY (%(among)s::bigint[])) AS d

-- name: has_tag

-- A subquery with a value, because EXISTS could become a join with all Data of the tag.
(SELECT true FROM data_tag o WHERE o.tag_id = %(/*tag*/)s AND o.knit_id = d.knit_id)

-- name: rarest_first

-- These tags, the rarest first; Data are counted up to a bound.
SELECT tag_id
  FROM unnest(%(tag_ids)s::bigint[]) AS wanted (tag_id)
 ORDER BY (SELECT count(*)
             FROM (SELECT FROM data_tag WHERE data_tag.tag_id = wanted.tag_id LIMIT 10000) AS few)
